"""Which model a device runs: a keyed hash of the device, never a stored list.

Promises: a device gets the same answer until the release's stage changes, across restarts and processes (sticky);
devices of a smaller stage stay in every larger one (nested); who goes first is drawn anew for each release. An answer
is a lease: a device that hears nothing more falls back to its last good model when it lapses. App version and model
version are two tracks, joined by a range (`release.compatibility`): no device is given a bundle outside the range of
its app. A policy file that became invalid stops no device: the last good policy of this home goes on, and the
rollout sensor says what is wrong.
"""

from __future__ import annotations

import hashlib
import hmac
from functools import partial

from voice_pipeline.release.compatibility import newest_live, runs
from voice_pipeline.release.policy import standing_policy
from voice_pipeline.schema.base import Record
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.store.releases import ReleaseView, live_of, release_views, rolling_out_of
from voice_pipeline.store.store import Store

BUCKETS = 10_000


class Assignment(Record):
    """What a device is told. `model_version` None: no model fits; the device keeps the one that it has, if any.

    In a shadow release some devices also run `shadow_model_version` silently. `reason` follows OFREP: `TARGETING_MATCH`
    inside a stage, `DEFAULT` for the live model, `DISABLED` without one.
    """

    model_version: str | None
    bundle_digest: str | None
    release_id: str | None
    shadow_model_version: str | None = None
    shadow_bundle_digest: str | None = None
    shadow_release_id: str | None = None
    lease_seconds: int
    reason: str


def bucket(salt: str, release_id: str, device_id: str) -> float:
    """A device's place in a release, in [0, 100): it is exposed where this is below the stage's percent."""
    mac = hmac.new(f"assignment|{salt}".encode(), f"{release_id}|{device_id}".encode(), hashlib.sha256).digest()
    return int.from_bytes(mac[:8], "big") % BUCKETS * 100 / BUCKETS


def assign(store: Store, device_id: str, app_version: str) -> Assignment:
    """The model for a device now. Costs one small query and one HMAC.

    Args:
        app_version: dotted numbers of at most nine digits; what is no such number counts as 0.

    Raises:
        PolicyError: the policy is invalid, and never was read here while it was valid.
    """
    policy = standing_policy(store).policy
    views = release_views(store)
    live, candidate = live_of(views), rolling_out_of(views)
    salt, fits = store.subject_salt, partial(runs, store, policy.compatibility, app_version)
    shadow: ReleaseView | None = None
    if candidate is not None and fits(candidate):
        place = bucket(salt, candidate.release_id, device_id)
        if place < candidate.exposure_percent:
            return _answer(candidate, policy.lease_seconds, "TARGETING_MATCH")
        if candidate.stage is ReleaseState.SHADOW and place < policy.shadow.device_percent:
            shadow = candidate
    live = newest_live(views, live, fits)
    if live is None:
        return _answer(None, policy.lease_seconds, "DISABLED")
    return _answer(live, policy.lease_seconds, "TARGETING_MATCH" if shadow else "DEFAULT", shadow)


def _answer(view: ReleaseView | None, lease_seconds: int, reason: str, shadow: ReleaseView | None = None) -> Assignment:
    return Assignment(
        model_version=view.model_version if view else None,
        bundle_digest=view.bundle_digest if view else None,
        release_id=view.release_id if view else None,
        shadow_model_version=shadow.model_version if shadow else None,
        shadow_bundle_digest=shadow.bundle_digest if shadow else None,
        shadow_release_id=shadow.release_id if shadow else None,
        lease_seconds=lease_seconds,
        reason=reason,
    )
