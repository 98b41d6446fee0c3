"""Shell: the inbox becomes clips, day by day."""

from dagster import AssetExecutionContext, BackfillPolicy, MaterializeResult, ResourceParam, asset

from voice_pipeline.capture.catalogue import catalogue_summary, quarantined_on
from voice_pipeline.capture.erasure import finish_erasures
from voice_pipeline.capture.ingest import ingest_day
from voice_pipeline.partitions import capture_date
from voice_pipeline.store.store import Store


@asset(
    group_name="capture",
    owners=["team:speech"],
    kinds={"sqlite", "audio"},
    partitions_def=capture_date,
    backfill_policy=BackfillPolicy.single_run(),
    description="Consented clips of a day: decoded, validated, encrypted under their speakers' keys, catalogued.",
)
def captured_clips(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    days = [ingest_day(store, day) for day in context.partition_keys]
    return MaterializeResult(
        metadata={
            "catalogued": sum(day.catalogued for day in days),
            "quarantined": sum(sum(day.quarantined.values()) for day in days),
            "erased": sum(day.erased for day in days),
        }
    )


@asset(
    group_name="capture",
    owners=["team:speech"],
    kinds={"sqlite"},
    partitions_def=capture_date,
    backfill_policy=BackfillPolicy.single_run(),
    deps=["captured_clips"],
    description="What was refused on a day, with the reason; nothing is dropped silently.",
)
def quarantined_clips(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    reasons = quarantined_on(store, context.partition_keys)
    return MaterializeResult(metadata={"quarantined": sum(reasons.values()), "reasons": dict(reasons)})


@asset(
    group_name="capture",
    owners=["team:speech"],
    kinds={"sqlite"},
    deps=["captured_clips"],
    description="All clips that are held, by day, speaker and source.",
)
def clip_catalog(store: ResourceParam[Store]) -> MaterializeResult:
    finished = finish_erasures(store)
    return MaterializeResult(metadata={**catalogue_summary(store), "erasures_finished": finished})
