"""Dagster sensor of the dataset stage: a closed batch that no dataset version holds asks for a snapshot."""

from collections.abc import Iterator

from dagster import AssetSelection, DefaultSensorStatus, ResourceParam, RunRequest, define_asset_job, sensor

from voice_pipeline.dataset.snapshot import pending_batches
from voice_pipeline.schema.canonical import digest
from voice_pipeline.store.store import Store

dataset_job = define_asset_job(
    "dataset_job",
    AssetSelection.assets("dataset_snapshot", "eval_suites", "training_frame"),
    description="Snapshot, freeze the suite, join the training frame.",
)


@sensor(job=dataset_job, default_status=DefaultSensorStatus.RUNNING, minimum_interval_seconds=30)
def closed_batch_sensor(store: ResourceParam[Store]) -> Iterator[RunRequest]:
    """One run for the batches that wait; the same batches never ask twice."""
    if waiting := pending_batches(store):
        yield RunRequest(run_key=digest(waiting), tags={"batches": ",".join(waiting)})


sensors = [closed_batch_sensor]
jobs = [dataset_job]
