"""Checks of the labeling stage: consent and completeness block, quality warns."""

from dagster import AssetCheckResult, AssetCheckSeverity, ResourceParam, asset_check

from voice_pipeline.labeling import audit
from voice_pipeline.schema.labeling_policy import load_labeling_policy
from voice_pipeline.store.store import Store


def _result(finding: audit.Finding, severity: AssetCheckSeverity) -> AssetCheckResult:
    return AssetCheckResult(passed=finding.holds, severity=severity, metadata={"figures": finding.figures})


@asset_check(asset="triaged_clips", blocking=True, description="Every clip of a triaged day has a route.")
def triage_is_complete(store: ResourceParam[Store]) -> AssetCheckResult:
    return _result(audit.triage_complete(store), AssetCheckSeverity.ERROR)


@asset_check(asset="triaged_clips", description="The random audit stream has the size that policy promises.")
def audit_stream_is_kept(store: ResourceParam[Store]) -> AssetCheckResult:
    policy = load_labeling_policy(store.settings.policy_dir)
    return _result(audit.audit_stream_kept(store, policy), AssetCheckSeverity.WARN)


@asset_check(asset="label_tasks", blocking=True, description="Nobody is asked about a clip without consent to review.")
def tasks_are_consented(store: ResourceParam[Store]) -> AssetCheckResult:
    return _result(audit.nobody_asked_without_consent(store), AssetCheckSeverity.ERROR)


@asset_check(asset="reviewed_labels", blocking=True, description="No label is empty after normalisation.")
def labels_have_words(store: ResourceParam[Store]) -> AssetCheckResult:
    return _result(audit.labels_have_words(store), AssetCheckSeverity.ERROR)


@asset_check(asset="reviewed_labels", description="Second passes agree and reviewers pass their gold items.")
def reviewers_agree(store: ResourceParam[Store]) -> AssetCheckResult:
    policy = load_labeling_policy(store.settings.policy_dir)
    return _result(audit.reviewers_agree(store, policy), AssetCheckSeverity.WARN)


@asset_check(asset="labeled_batch", blocking=True, description="Closed batches hold only labels that may be used.")
def batches_are_consented(store: ResourceParam[Store]) -> AssetCheckResult:
    return _result(audit.batches_are_consented(store), AssetCheckSeverity.ERROR)
