"""Dagster checks of the features stage: blocking ones stop the run, the rest warn."""

from dagster import AssetCheckResult, AssetCheckSeverity, ResourceParam, asset_check

from voice_pipeline.features import audit
from voice_pipeline.store.store import Store


@asset_check(asset="feature_store")
def every_clip_is_measured(store: ResourceParam[Store]) -> AssetCheckResult:
    """No clip in use is without acoustic measures."""
    missing = audit.unmeasured_clips(store)
    return AssetCheckResult(passed=missing == 0, severity=AssetCheckSeverity.WARN, metadata={"unmeasured": missing})


@asset_check(asset="feature_store", blocking=True)
def online_equals_offline(store: ResourceParam[Store]) -> AssetCheckResult:
    """The online store serves exactly what training reads (no training-serving skew)."""
    skewed = audit.skewed_clips(store)
    return AssetCheckResult(passed=not skewed, metadata={"skewed": len(skewed), "clip_ids": list(skewed[:5])})


@asset_check(asset="training_frame", blocking=True)
def frame_holds_every_clip(store: ResourceParam[Store]) -> AssetCheckResult:
    """The frame has one row for each clip of its dataset version, no more and no fewer."""
    difference = audit.frame_difference(store)
    return AssetCheckResult(passed=difference == 0, metadata={"difference": difference})
