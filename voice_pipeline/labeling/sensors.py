"""Sensors of the labeling stage: an incident opens the budget, finished reviews close a batch."""

from collections.abc import Iterator

from dagster import (
    AssetSelection,
    DefaultSensorStatus,
    ResourceParam,
    RunRequest,
    SkipReason,
    define_asset_job,
    sensor,
)

from voice_pipeline.labeling.batches import readiness
from voice_pipeline.labeling.retriage import days_to_retriage
from voice_pipeline.partitions import capture_date
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.labeling_policy import load_labeling_policy
from voice_pipeline.store.incidents import open_incidents
from voice_pipeline.store.store import Store

triage_job = define_asset_job(
    "triage_job",
    selection=AssetSelection.assets("triaged_clips", "label_tasks"),
    partitions_def=capture_date,
    description="Triage one day again, with the budget an open incident gives.",
)
labeling_job = define_asset_job(
    "labeling_job",
    selection=AssetSelection.assets("reviewed_labels", "labeled_batch"),
    description="Settle answers into labels and close them into a batch.",
)


@sensor(
    job=triage_job,
    default_status=DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="An open drift incident that asks for labels: triage again the days whose captures are not selected.",
)
def labeling_incident_sensor(store: ResourceParam[Store]) -> Iterator[RunRequest | SkipReason]:
    policy = load_labeling_policy(store.settings.policy_dir)
    wanted = days_to_retriage(store, policy, open_incidents(store))
    if not wanted:
        yield SkipReason("no open incident asks for labels of unselected captures")
    for day in wanted:
        tags = {"cause": f"incident:{day.incident_id}", "incident": day.incident_id}
        yield RunRequest(run_key=day.run_key, partition_key=day.day, tags=tags)


@sensor(
    job=labeling_job,
    default_status=DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Nobody is still asked and enough answers wait: close a batch.",
)
def finished_reviews_sensor(store: ResourceParam[Store]) -> Iterator[RunRequest | SkipReason]:
    waiting = readiness(store, load_labeling_policy(store.settings.policy_dir))
    if not waiting.ready:
        yield SkipReason(f"{waiting.waiting} answered clips wait, {waiting.open_tasks} tasks are open")
        return
    yield RunRequest(run_key=digest(["close_batch", waiting.digest]), tags={"cause": waiting.cause})


sensors = [labeling_incident_sensor, finished_reviews_sensor]
jobs = [triage_job, labeling_job]
