"""A model that learnt little is marked, and how little is too little depends on its size."""

from __future__ import annotations

import json

import pytest

from voice_pipeline.schema.retrain_policy import Alarms
from voice_pipeline.schema.training import Preset
from voice_pipeline.store.store import Store
from voice_pipeline.training.planning import act, read_policy
from voice_pipeline.training.readiness import planned_spec
from voice_pipeline.training.verdicts import check_learning
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


def test_limits_that_leave_a_size_out_are_refused() -> None:
    with pytest.raises(ValueError, match="lacks base, small, tiny"):
        Alarms(dev_wer={Preset.MICRO: 0.5})
