"""Dagster shell: one asset a kind of report, a partition a day."""

from dagster import AssetExecutionContext, BackfillPolicy, MaterializeResult, MetadataValue, ResourceParam, asset

from voice_pipeline.monitoring.concept import report_concept_drift
from voice_pipeline.monitoring.drift import report_drift
from voice_pipeline.monitoring.quality import report_quality
from voice_pipeline.monitoring.tables import concept_table, drift_table, quality_table
from voice_pipeline.monitoring.windows import build_windows
from voice_pipeline.partitions import capture_date
from voice_pipeline.schema.monitoring_policy import load_monitoring_policy
from voice_pipeline.store.store import Store


@asset(
    group_name="monitoring",
    owners=["team:speech"],
    kinds={"python", "sqlite"},
    partitions_def=capture_date,
    backfill_policy=BackfillPolicy.single_run(),
    description="A day of telemetry as mergeable sketches per cohort, feature and model version.",
)
def telemetry_windows(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    summaries = [build_windows(store, day) for day in context.partition_keys]
    return MaterializeResult(
        metadata={
            "events": sum(summary.events for summary in summaries),
            "devices": max(summary.devices for summary in summaries),
            "windows": sum(summary.windows for summary in summaries),
            "sketch_bytes": sum(summary.sketch_bytes for summary in summaries),
            "models": ", ".join(sorted({model for summary in summaries for model in summary.models})) or "none",
        }
    )


@asset(
    group_name="monitoring",
    owners=["team:speech"],
    kinds={"python", "scipy"},
    deps=["telemetry_windows"],
    partitions_def=capture_date,
    backfill_policy=BackfillPolicy.single_run(),
    description="PSI, KS and Jensen-Shannon of the fleet's inputs against what the live model was trained on.",
)
def drift_report(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    policy = load_monitoring_policy(store.settings.policy_dir)
    reports = [report_drift(store, policy, day) for day in context.partition_keys]
    return MaterializeResult(
        metadata={
            "status": reports[-1].status.value,
            "model_version": reports[-1].model_version or "none",
            "incidents": ", ".join(name for report in reports for name in report.incident_ids) or "none",
            "findings": MetadataValue.md(drift_table(reports[-1])),
        }
    )


@asset(
    group_name="monitoring",
    owners=["team:speech"],
    kinds={"python", "numpy"},
    deps=["telemetry_windows"],
    partitions_def=capture_date,
    backfill_policy=BackfillPolicy.single_run(),
    description="Correction rate at the same inputs, calibration, and WER on audited labels.",
)
def concept_drift_report(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    policy = load_monitoring_policy(store.settings.policy_dir)
    reports = [report_concept_drift(store, policy, day) for day in context.partition_keys]
    return MaterializeResult(
        metadata={
            "status": reports[-1].status.value,
            "model_version": reports[-1].model_version or "none",
            "incident": reports[-1].incident_id or "none",
            "figures": MetadataValue.md(concept_table(reports[-1])),
        }
    )


@asset(
    group_name="monitoring",
    owners=["team:speech"],
    kinds={"python", "numpy"},
    deps=["telemetry_windows"],
    partitions_def=capture_date,
    backfill_policy=BackfillPolicy.single_run(),
    description="Corrections, crashes, latency and reporting of the fleet by model version.",
)
def quality_report(context: AssetExecutionContext, store: ResourceParam[Store]) -> MaterializeResult:
    policy = load_monitoring_policy(store.settings.policy_dir)
    reports = [report_quality(store, policy, day) for day in context.partition_keys]
    return MaterializeResult(
        metadata={
            "events": sum(report.events for report in reports),
            "breaches": ", ".join(breach.metric for report in reports for breach in report.breaches) or "none",
            "models": MetadataValue.md(quality_table(reports[-1])),
        }
    )
