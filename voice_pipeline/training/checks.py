"""Shell: what must hold before minutes are spent on a model, and what should hold after.

A check takes its model from the run's partition; partitioned checks proper are still a preview in Dagster (2026-11).
"""

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetCheckSeverity,
    MetadataValue,
    ResourceParam,
    asset_check,
)

from voice_pipeline.store.store import Store
from voice_pipeline.training import preflight, readiness, verdicts
from voice_pipeline.training.planning import find_plan, read_policy
from voice_pipeline.training.preflight import Finding
from voice_pipeline.training.presentation import findings_table


def _result(findings: list[Finding], severity: AssetCheckSeverity) -> AssetCheckResult:
    failed = "; ".join(f"{finding.name}: {finding.detail}" for finding in findings if not finding.passed)
    return AssetCheckResult(
        passed=not failed,
        severity=severity,
        description=failed or "all hold",
        metadata={"findings": MetadataValue.md(findings_table(findings))},
    )


@asset_check(
    asset="training_plan",
    blocking=True,
    description="The data is readable, speaker-disjoint, in no suite, and every clip's consent to train stands.",
)
def data_may_be_used(context: AssetCheckExecutionContext, store: ResourceParam[Store]) -> AssetCheckResult:
    plan = find_plan(store, context.partition_key)
    return _result(preflight.check_data(store, plan.spec), AssetCheckSeverity.ERROR)


@asset_check(
    asset="training_plan",
    blocking=True,
    description="Disk and memory suffice for this plan; its network learns a batch by heart and is then heard right.",
)
def machine_is_ready(context: AssetCheckExecutionContext, store: ResourceParam[Store]) -> AssetCheckResult:
    verdict = readiness.judge(store, context.partition_key)
    return _result(list(verdict.findings), AssetCheckSeverity.ERROR)


@asset_check(
    asset="acoustic_model",
    blocking=True,
    description="The checkpoint is the one that the catalogue names, and every weight is a finite number.",
)
def weights_are_sound(context: AssetCheckExecutionContext, store: ResourceParam[Store]) -> AssetCheckResult:
    return _result(verdicts.check_weights(store, context.partition_key), AssetCheckSeverity.ERROR)


@asset_check(
    asset="acoustic_model",
    description="The network learnt: the loss fell and the dev WER is below the policy's alarm.",
)
def network_learnt(context: AssetCheckExecutionContext, store: ResourceParam[Store]) -> AssetCheckResult:
    findings = verdicts.check_learning(store, context.partition_key, read_policy(store).alarms)
    return _result(findings, AssetCheckSeverity.WARN)


@asset_check(
    asset="confidence_model",
    description="Confidence means what it says: out-of-fold calibration error below the policy's alarm.",
)
def confidence_is_calibrated(context: AssetCheckExecutionContext, store: ResourceParam[Store]) -> AssetCheckResult:
    findings = verdicts.check_calibration(store, context.partition_key, read_policy(store).alarms)
    return _result(findings, AssetCheckSeverity.WARN)


@asset_check(
    asset="evaluation_report",
    description="Every slice has enough clips, speakers and words for its interval to mean something.",
)
def slices_have_speakers(context: AssetCheckExecutionContext, store: ResourceParam[Store]) -> AssetCheckResult:
    findings = verdicts.check_slices(store, context.partition_key, read_policy(store).alarms)
    return _result(findings, AssetCheckSeverity.WARN)


@asset_check(
    asset="evaluation_report",
    description="Confidence holds for people it was not fitted on: calibration error on the suite below the alarm.",
)
def confidence_holds_on_suite(context: AssetCheckExecutionContext, store: ResourceParam[Store]) -> AssetCheckResult:
    findings = verdicts.check_held_out(store, context.partition_key, read_policy(store).alarms)
    return _result(findings, AssetCheckSeverity.WARN)
