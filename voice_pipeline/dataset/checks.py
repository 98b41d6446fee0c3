"""Dagster checks of the dataset stage: blocking ones stop the run, the rest warn."""

from dagster import AssetCheckResult, AssetCheckSeverity, ResourceParam, asset_check

from voice_pipeline.dataset import audit
from voice_pipeline.store.store import Store


@asset_check(asset="dataset_snapshot", blocking=True)
def rows_meet_expectations(store: ResourceParam[Store]) -> AssetCheckResult:
    """The newest version's rows meet every critical Great Expectations expectation."""
    broken = audit.broken_expectations(store, "critical")
    return AssetCheckResult(passed=not broken, metadata={"broken": list(broken)})


@asset_check(asset="dataset_snapshot")
def rows_look_plausible(store: ResourceParam[Store]) -> AssetCheckResult:
    """The newest version's rows meet the expectations that only warn."""
    broken = audit.broken_expectations(store, "warning")
    return AssetCheckResult(passed=not broken, severity=AssetCheckSeverity.WARN, metadata={"broken": list(broken)})


@asset_check(asset="dataset_snapshot", blocking=True)
def speakers_keep_their_split(store: ResourceParam[Store]) -> AssetCheckResult:
    """Over all dataset versions, no speaker was ever in two splits."""
    moved = audit.speakers_in_two_splits(store)
    return AssetCheckResult(passed=not moved, metadata={"speakers": list(moved)})


@asset_check(asset="dataset_snapshot", blocking=True)
def version_is_whole(store: ResourceParam[Store]) -> AssetCheckResult:
    """Every row of the newest version has its audio in a shard, or belongs to an erased subject."""
    missing = audit.rows_without_audio(store)
    return AssetCheckResult(passed=not missing, metadata={"missing": len(missing), "clip_ids": list(missing[:5])})


@asset_check(asset="eval_suites")
def suite_is_large_enough(store: ResourceParam[Store]) -> AssetCheckResult:
    """The suite has enough speakers and clips for intervals that mean something."""
    clips, speakers = audit.suite_size(store)
    enough = clips >= audit.ENOUGH_CLIPS and speakers >= audit.ENOUGH_SPEAKERS
    return AssetCheckResult(
        passed=enough, severity=AssetCheckSeverity.WARN, metadata={"clips": clips, "speakers": speakers}
    )
