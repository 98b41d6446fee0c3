"""Shell: gates and alarms on what came in."""

from dagster import AssetCheckResult, AssetCheckSeverity, ResourceParam, asset_check

from voice_pipeline.capture.catalogue import captured_on, newest_day, quarantined_on, unconsented, waiting_by_day
from voice_pipeline.store.store import Store

QUARANTINE_ALARM = 0.2


@asset_check(
    asset="clip_catalog", blocking=True, description="Every clip that is held stands under a consent in force."
)
def clips_are_consented(store: ResourceParam[Store]) -> AssetCheckResult:
    found = unconsented(store)
    return AssetCheckResult(passed=not found, metadata={"without_consent": len(found), "first": found[:3]})


@asset_check(asset="clip_catalog", description="The share of refused clips on the newest day is no more than a fifth.")
def quarantine_is_small(store: ResourceParam[Store]) -> AssetCheckResult:
    day = newest_day(store)
    refused = sum(quarantined_on(store, [day]).values()) if day else 0
    taken = captured_on(store, [day]) if day else 0
    share = refused / max(1, refused + taken)
    return AssetCheckResult(
        passed=share <= QUARANTINE_ALARM,
        severity=AssetCheckSeverity.WARN,
        metadata={
            "day": day or "",
            "share": share,
            "refused": refused,
            "taken": taken,
            "waiting": sum(len(events) for events in waiting_by_day(store).values()),
        },
    )
