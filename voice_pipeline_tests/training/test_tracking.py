"""MLflow mirrors the catalogue and the ledger: one run and one version a model, aliases where the ledger says."""

from __future__ import annotations

from pathlib import Path

import pytest

from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.schema.training import EvaluationReport, Interval, Latency, SliceResult
from voice_pipeline.store.store import Store
from voice_pipeline.training import tracking
from voice_pipeline.training.planning import Plan, act, read_policy, request_retrain
from voice_pipeline.training.tracking import REGISTERED_MODEL, Standing, standing
from voice_pipeline_tests.training.catalogue import add_dataset, move

EPOCHS = [{"epoch": n, "loss": 3.0 / n, "dev_wer": 1.0 / n, "seconds": 1.0, "audio_s_per_s": 170.0} for n in (1, 2, 3)]


@pytest.fixture
def plans(store: Store) -> list[Plan]:
    add_dataset(store, 1, clips=300)
    request_retrain(store, "another seed", actor="ann")
    return act(store, read_policy(store))


def report_of(model_version: str) -> EvaluationReport:
    interval = Interval(value=0.25, low=0.2, high=0.3)
    counts = {"clips": 1, "speakers": 1, "words": 4, "substitutions": 1, "deletions": 0, "insertions": 0}
    part = SliceResult(slice="accent:US English (unlabelled)", wer=interval, cer=interval, **counts)
    return EvaluationReport(
        model_version=model_version,
        variant="float",
        suite_id="core-v1",
        suite_digest="a" * 64,
        created_at="2026-11-02T09:00:00Z",
        overall=part.model_copy(update={"slice": "overall"}),
        slices=(part,),
        latency=Latency(p50_ms=1.0, p95_ms=2.0, clips=1, measured_on="host"),
        utterances=(),
    )


def test_a_model_has_one_run_and_one_version_however_often_it_is_logged(
    store: Store, plans: list[Plan], tmp_path: Path
) -> None:
    first, second = plans
    assert tracking.mirror_aliases(store).champion is None  # nothing registered yet is no error
    card = tmp_path / "model_card.md"
    card.write_text("# card")
    for _ in range(2):
        run_id = tracking.log_training(store, first.model_version, first.spec, EPOCHS, [card])
        tracking.log_evaluation(store, report_of(first.model_version))
        assert tracking.register(store, first.model_version, card) == "1"
    assert tracking.register(store, second.model_version, card) == "2"

    client = tracking._client(store)
    run = client.get_run(run_id)
    assert [metric.value for metric in client.get_metric_history(run_id, "loss")] == [3.0, 1.5, 1.0]
    assert run.data.metrics["float/wer/accent.US English .unlabelled."] == 0.25
    assert run.data.params["dataset_version"] == first.spec.dataset_version
    assert run.data.tags["code_commit"] == first.spec.code_commit
    assert run.data.tags["dvc_md5"] == f"{1:032d}"
    assert run.info.artifact_uri.startswith((store.settings.root / "mlflow" / "artifacts").as_uri())

    move(store, first.model_version, ReleaseState.CANDIDATE, ReleaseState.PRODUCTION)
    move(store, second.model_version, ReleaseState.CANDIDATE, ReleaseState.SHADOW)
    tracking.mirror_aliases(store)
    assert _aliases(store) == {"champion": "1", "challenger": "2"}
    move(store, second.model_version, ReleaseState.ROLLED_BACK)
    tracking.mirror_aliases(store)
    assert _aliases(store) == {"champion": "1"}


def test_standing_follows_the_ledger(store: Store) -> None:
    assert standing(store) == Standing(None, None, 0)
    move(store, "m-1", ReleaseState.CANDIDATE)
    assert standing(store) == Standing(None, "m-1", 1)
    move(store, "m-1", ReleaseState.PRODUCTION)
    assert standing(store) == Standing("m-1", None, 2)
    move(store, "m-2", ReleaseState.CANDIDATE, ReleaseState.SHADOW, ReleaseState.CANARY_5)
    assert standing(store) == Standing("m-1", "m-2", 3)
    move(store, "m-2", ReleaseState.ROLLED_BACK)
    assert standing(store) == Standing("m-1", None, 6)


def _aliases(store: Store) -> dict[str, str]:
    found = tracking._client(store).get_registered_model(REGISTERED_MODEL).aliases
    return {alias: str(version) for alias, version in found.items()}
