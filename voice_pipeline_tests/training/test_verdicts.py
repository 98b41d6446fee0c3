"""A model that learnt little is marked, and how little is too little depends on its size."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from voice_pipeline.evaluation.artifacts import FLOAT, artifact_of, checkpoint_folder
from voice_pipeline.evaluation.suites import current_suite
from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.schema.retrain_policy import Alarms
from voice_pipeline.schema.training import Preset
from voice_pipeline.store.store import Store
from voice_pipeline.training.confidence import HELD_OUT, HeldOut
from voice_pipeline.training.planning import act, read_policy
from voice_pipeline.training.readiness import planned_spec
from voice_pipeline.training.verdicts import check_held_out, check_learning
from voice_pipeline.training.worker import PROGRESS

LIMITS = dict.fromkeys(Preset, 0.95)


@pytest.fixture
def model(labelled: Store) -> str:
    (planned,) = act(labelled, read_policy(labelled))
    return planned.model_version


def report(store: Store, model_version: str, *epochs: tuple[float, float]) -> None:
    folder = store.settings.models / model_version
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"epoch": n, "loss": loss, "dev_wer": wer}) for n, (loss, wer) in enumerate(epochs, 1)]
    (folder / PROGRESS).write_text("\n".join(lines))


@pytest.mark.parametrize(("limit", "passes"), [(0.31, True), (0.29, False)])
def test_the_best_epoch_is_held_to_the_limit_of_the_models_own_size(
    labelled: Store, model: str, limit: float, passes: bool
) -> None:
    report(labelled, model, (3.0, 0.9), (1.0, 0.3), (0.9, 0.5))
    own = planned_spec(labelled, model).hyperparameters.preset
    found = {f.name: f.passed for f in check_learning(labelled, model, Alarms(dev_wer={**LIMITS, own: limit}))}
    assert found == {"loss": True, "dev WER": passes}
    others = {preset: 0.01 for preset in Preset if preset != own}
    assert all(f.passed for f in check_learning(labelled, model, Alarms(dev_wer={**LIMITS, **others})))


@pytest.mark.parametrize("last", [1.0, 3.0, float("nan")])
def test_a_loss_that_did_not_fall_is_marked(labelled: Store, model: str, last: float) -> None:
    report(labelled, model, (1.0, 0.3), (last, 0.3))
    assert [f.name for f in check_learning(labelled, model, Alarms()) if not f.passed] == ["loss"]


def test_a_run_without_an_epoch_is_marked(labelled: Store, model: str) -> None:
    assert [f.passed for f in check_learning(labelled, model, Alarms())] == [False]


@pytest.fixture
def fitted(labelled: Store, model: str) -> str:
    """A network and a confidence of which only the digests matter here."""
    folder = checkpoint_folder(labelled, model)
    folder.mkdir(parents=True)
    for name in ("model.pt", "confidence.json"):
        (folder / name).write_text(name)
    return model


def judge(store: Store, model_version: str, error: float, **other: str) -> None:
    """Leave a judgement of this model on the newest suite, but for what is `other`."""
    suite, artifact = current_suite(store), artifact_of(store, model_version, FLOAT)
    found: dict[str, float | str] = {field.name: 0.5 for field in fields(HeldOut)} | {"clips": 9, "speakers": 4}
    found |= {"sweep_calibration_error": error, "calibration_error_by_chance": 0.125, "suite": suite.suite_id}
    found |= {"suite_digest": suite.digest, "artifact_sha256": artifact.sha256}
    found |= {"confidence_sha256": sha256_bytes((artifact.folder / "confidence.json").read_bytes())}
    (artifact.folder / HELD_OUT).write_text(json.dumps(found | other))


@pytest.mark.parametrize(("error", "passes"), [(0.15, True), (0.151, False), (0.4, False), (float("nan"), False)])
def test_a_confidence_that_does_not_hold_for_the_suites_people_is_marked(
    labelled: Store, fitted: str, error: float, passes: bool
) -> None:
    judge(labelled, fitted, error)
    (finding,) = check_held_out(labelled, fitted, Alarms(calibration_error=0.15))
    assert finding.passed is passes
    assert f"{error:.3f} on 9 clips of 4 speakers (core-v1), alarm at 0.15" in finding.detail
    assert "0.125 by chance" in finding.detail
    (finding,) = check_held_out(labelled, fitted, Alarms(calibration_error=0.5))
    assert finding.passed is (error < 1), "the limit is the policy's"


def test_a_confidence_that_nobody_judged_as_it_is_is_marked(labelled: Store, fitted: str) -> None:
    def marked() -> str:
        (finding,) = check_held_out(labelled, fitted, Alarms(calibration_error=1))
        assert not finding.passed
        return finding.detail

    assert marked() == "no judgement of this model as it is; materialise evaluation_report"
    judge(labelled, fitted, 0.1, confidence_sha256="e" * 64)
    assert marked() == "no judgement of this model as it is; materialise evaluation_report"
    judge(labelled, fitted, 0.1, suite="core-v0", suite_digest="e" * 64)
    assert marked() == "no judgement on core-v1, only on core-v0; materialise evaluation_report"


def test_limits_that_leave_a_size_out_are_refused() -> None:
    with pytest.raises(ValueError, match="lacks base, small, tiny"):
        Alarms(dev_wer={Preset.MICRO: 0.5})
