"""Dagster shell: alarms on the report that was written last. They warn; what acts is the incident."""

from dagster import AssetCheckResult, AssetCheckSeverity, ResourceParam, asset_check

from voice_pipeline.monitoring.concept import ConceptReport, ConceptStatus
from voice_pipeline.monitoring.drift import DriftReport, DriftStatus
from voice_pipeline.monitoring.quality import QualityReport
from voice_pipeline.monitoring.reports import CONCEPT, DRIFT, QUALITY, newest_report
from voice_pipeline.store.store import Store

WARN = AssetCheckSeverity.WARN


@asset_check(asset="drift_report", description="The fleet's inputs are those the live model was trained on.")
def inputs_have_not_drifted(store: ResourceParam[Store]) -> AssetCheckResult:
    report = newest_report(store, DRIFT, DriftReport)
    status = report.status if report else DriftStatus.TOO_LITTLE
    return AssetCheckResult(
        passed=status is not DriftStatus.DRIFTED,
        severity=WARN,
        description=f"{', '.join(report.drifted_cohorts)} drifted" if report and report.drifted_cohorts else None,
        metadata={"status": status.value, "day": report.day if report else "none"},
    )


@asset_check(asset="concept_drift_report", description="At the same inputs the answers are as good as at first.")
def answers_have_not_drifted(store: ResourceParam[Store]) -> AssetCheckResult:
    report = newest_report(store, CONCEPT, ConceptReport)
    status = report.status if report else ConceptStatus.TOO_LITTLE
    return AssetCheckResult(
        passed=status is not ConceptStatus.DRIFTED,
        severity=WARN,
        metadata={"status": status.value, "day": report.day if report else "none"},
    )


@asset_check(asset="quality_report", description="The live model is within the policy's limits in the field.")
def quality_is_within_policy(store: ResourceParam[Store]) -> AssetCheckResult:
    report = newest_report(store, QUALITY, QualityReport)
    breaches = report.breaches if report else ()
    return AssetCheckResult(
        passed=not breaches,
        severity=WARN,
        # Without figures, which move from look to look: the description is what tells one alert from the next.
        description=f"{', '.join(b.metric for b in breaches)} beyond the limit" if breaches else None,
        metadata={
            "breaches": "; ".join(f"{b.metric} {b.value:.4g}, limit {b.limit:.4g}" for b in breaches) or "none",
            "day": report.day if report else "none",
        },
    )
