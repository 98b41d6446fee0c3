"""Checks of packaging: what was exported, quantised and signed is looked at again, as it lies on disk."""

from dagster import AssetCheckExecutionContext, AssetCheckResult, AssetCheckSeverity, ResourceParam, asset_check

from voice_pipeline.packaging import audit
from voice_pipeline.store.store import Store


@asset_check(asset="onnx_model", blocking=True)
def graph_is_faithful(context: AssetCheckExecutionContext, store: ResourceParam[Store]) -> AssetCheckResult:
    """The float graph on disk is the one that computed what the checkpoint computes."""
    finding = audit.graph_is_faithful(store, context.partition_key)
    return AssetCheckResult(passed=finding.holds, metadata=finding.figures)


@asset_check(asset="quantized_model")
def int8_costs_little(context: AssetCheckExecutionContext, store: ResourceParam[Store]) -> AssetCheckResult:
    """Int8 costs at most one point of development WER; the release gate judges it on the suite."""
    finding = audit.int8_costs_little(store, context.partition_key)
    return AssetCheckResult(passed=finding.holds, severity=AssetCheckSeverity.WARN, metadata=finding.figures)


@asset_check(asset="signed_bundle", blocking=True)
def bundle_is_sound(context: AssetCheckExecutionContext, store: ResourceParam[Store]) -> AssetCheckResult:
    """The bundle on disk verifies: signature, every file, digest."""
    finding = audit.bundle_is_sound(store, context.partition_key)
    return AssetCheckResult(passed=finding.holds, metadata=finding.figures)
