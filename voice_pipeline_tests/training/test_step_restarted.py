"""A step of the training job that failed is run again alone: what came before it, the weights above all, is kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dagster import (
    DagsterInstance,
    JobDefinition,
    JobExecutionResult,
    ReexecutionOptions,
    execute_job,
    reconstructable,
)
from sqlalchemy import select

from voice_pipeline.conductor import QUIET_CONSOLE
from voice_pipeline.definitions import build_definitions
from voice_pipeline.packaging import assets as packaging
from voice_pipeline.partitions import model_version
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import models
from voice_pipeline.training import worker
from voice_pipeline.training.checkpoints import CHECKPOINT, checkpoint_digest
from voice_pipeline.training.planning import act, read_policy

BEFORE = {
    "training_plan",
    "acoustic_model",
    "language_model",
    "confidence_model",
    "evaluation_report",
    "model_card",
    "onnx_model",
}


def training_job() -> JobDefinition:
    """The job of the real code location, which finds its home in the environment."""
    return build_definitions().resolve_job_def("training_job")


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp() as made:
        yield made


def executed(result: JobExecutionResult) -> set[str]:
    """Assets whose steps succeeded; checks are steps, too, and are left out."""
    materialised = [event for event in result.all_events if event.is_step_materialization]
    return {event.asset_key.to_user_string() for event in materialised if event.asset_key}


def test_quantisation_that_failed_once_is_run_again_without_training_anew(
    labelled: Store, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    (plan,) = act(labelled, read_policy(labelled))
    instance.add_dynamic_partitions(str(model_version.name), [plan.model_version])
    partition = {"dagster/partition": plan.model_version}
    with monkeypatch.context() as patch:
        patch.setattr(packaging, "quantise", full)
        failed = execute_job(reconstructable(training_job), instance, run_config=QUIET_CONSOLE, tags=partition)
    assert not failed.success
    assert executed(failed) == BEFORE
    folder = labelled.settings.models / plan.model_version / CHECKPOINT
    digest, written = checkpoint_digest(folder), (folder / "model.pt").stat().st_mtime_ns
    monkeypatch.setattr(worker, "_run_subprocess", lambda *_: pytest.fail("the weights are there"))
    from_failure = ReexecutionOptions.from_failure(failed.run_id, instance)
    again = execute_job(reconstructable(training_job), instance, tags=partition, reexecution_options=from_failure)
    assert again.success
    assert executed(again) == {"quantized_model", "signed_bundle"}
    assert (checkpoint_digest(folder), (folder / "model.pt").stat().st_mtime_ns) == (digest, written)
    assert labelled.database.scalar(select(models.c.checkpoint_sha256)) == digest
    assert (labelled.settings.bundles / plan.model_version / "model.onnx").exists()
