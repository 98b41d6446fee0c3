"""Shell: new captures fire the intake of their day, an erasure fires the forgetting."""

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
from voice_pipeline.capture.erasure import ERASURE, scrub_due, unfinished_erasures
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
    for day, events in waiting.items():
        yield RunRequest(run_key=digest([day, *events]), partition_key=day, tags={"captures": str(len(events))})


forget_job = define_asset_job(
    "forget_job",
    selection=AssetSelection.assets("clip_catalog", "feature_store"),
    description="After an erasure: finish it where a crash cut it short, and drop the features that were served.",
)


@sensor(
    job=forget_job,
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    description="An erased subject leaves the catalogue and the feature store at once, not with the next captures.",
)
def erasure_sensor(store: ResourceParam[Store]) -> RunRequest | SkipReason:
    lines = store.ledger.lines(kind=ERASURE)
    unfinished = [*unfinished_erasures(store), *filter(None, [scrub_due(store)])]
    if not lines and not unfinished:
        return SkipReason("nobody was erased")
    return RunRequest(run_key=digest([lines[-1].hash if lines else "", *unfinished]))


sensors = [new_captures_sensor, erasure_sensor]
jobs = [intake_job, forget_job]
