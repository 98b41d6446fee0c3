"""Dagster shell of the features stage."""

from dagster import AssetExecutionContext, BackfillPolicy, MaterializeResult, ResourceParam, asset

from voice_pipeline.features.frames import build_frame, newest_dataset
from voice_pipeline.features.measure import measure_day
from voice_pipeline.features.publish import publish
from voice_pipeline.partitions import capture_date
from voice_pipeline.store.store import Store

OWNERS = ["team:speech"]


@asset(
    group_name="features",
    owners=OWNERS,
    kinds={"python", "sqlite"},
    deps=["captured_clips"],
    partitions_def=capture_date,
    backfill_policy=BackfillPolicy.single_run(),
)
def clip_features(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    """Acoustic measures of a day's clips."""
    days = [measure_day(store, day) for day in context.partition_keys]
    return MaterializeResult(
        metadata={
            "clips": sum(day.clips for day in days),
            "measured": sum(day.measured for day in days),
            "erased_meanwhile": sum(day.erased for day in days),
        }
    )


@asset(group_name="features", owners=OWNERS, kinds={"feast", "duckdb", "sqlite"}, deps=["clip_features"])
def feature_store(store: ResourceParam[Store]) -> MaterializeResult:
    """Clip and device-profile features in Feast, offline and online."""
    summary = publish(store)
    return MaterializeResult(
        metadata={
            "feature_service": summary.feature_service,
            "clips": summary.clips,
            "device_profiles": summary.profiles,
            "known_until": summary.known_until.isoformat(),
            "forgotten": summary.forgotten,
            "frames_rewritten": summary.frames_rewritten,
        }
    )


@asset(group_name="features", owners=OWNERS, kinds={"feast", "parquet"}, deps=["dataset_snapshot", "feature_store"])
def training_frame(store: ResourceParam[Store]) -> MaterializeResult:
    """Point-in-time features of every clip of the newest dataset version."""
    frame = build_frame(store, newest_dataset(store))
    return MaterializeResult(
        metadata={
            "dataset_version": frame.dataset_version,
            "feature_service": frame.feature_service,
            "rows": frame.rows,
            "unmeasured": frame.unmeasured,
            "sha256": frame.sha256,
            "path": str(frame.path),
        }
    )
