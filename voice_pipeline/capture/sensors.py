"""Shell: new captures fire the intake of their day."""

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

from voice_pipeline.capture.catalogue import waiting_by_day
from voice_pipeline.partitions import capture_date
from voice_pipeline.schema.canonical import digest
from voice_pipeline.store.store import Store

intake_job = define_asset_job(
    "intake_job",
    selection=AssetSelection.assets(
        "captured_clips",
        "quarantined_clips",
        "clip_catalog",
        "clip_features",
        "feature_store",
        "triaged_clips",
        "label_tasks",
    ),
    partitions_def=capture_date,
    description="One day's captures: catalogue, features, triage, label tasks.",
)


@sensor(
    job=intake_job,
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    description="Acknowledged captures that no run has taken in yet fire the intake of their day.",
)
def new_captures_sensor(store: ResourceParam[Store]) -> Iterator[RunRequest | SkipReason]:
    waiting = waiting_by_day(store)
    if not waiting:
        yield SkipReason("no new captures")
    for day, (count, newest) in waiting.items():
        yield RunRequest(run_key=digest([day, count, newest]), partition_key=day, tags={"captures": str(count)})


sensors = [new_captures_sensor]
jobs = [intake_job]
