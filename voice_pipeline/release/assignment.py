"""Which model a device runs: a keyed hash of the device, never a stored list.

Promises: a device gets the same answer until the release's stage changes, across restarts and processes (sticky);
devices of a smaller stage stay in every larger one (nested); who goes first is drawn anew for each release. An answer
is a lease: a device that hears nothing more falls back to its last good model when it lapses. App version and model
version are two tracks, joined only by the bundle's `min_app_version`. A policy file that became invalid stops no
device: the last good policy of this process goes on, and the rollout sensor says what is wrong.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from voice_pipeline.release.evidence import find_bundle
from voice_pipeline.release.policy import release_policy
from voice_pipeline.schema.base import Record
from voice_pipeline.schema.policy_file import PolicyError
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.schema.release_policy import ReleasePolicy
from voice_pipeline.store.ledger import Ledger
from voice_pipeline.store.releases import ReleaseView, live_of, release_views, rolling_out_of
from voice_pipeline.store.store import Store
from voice_pipeline.trust import is_older

BUCKETS = 10_000
_min_app: WeakKeyDictionary[Ledger, dict[str, str]] = WeakKeyDictionary()
_last_good: WeakKeyDictionary[Ledger, ReleasePolicy] = WeakKeyDictionary()


class Assignment(Record):
    """What a device is told. `model_version` None: no model fits; dictation on the device stays off.

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
        PolicyError: the policy is invalid, and was never read in this process while it was valid.
    """
    policy = _policy(store)
    views = release_views(store)
    live, candidate = live_of(views), rolling_out_of(views)
    salt = store.subject_salt
    shadow: ReleaseView | None = None
    if candidate is not None and _runs_on(store, candidate, app_version):
        place = bucket(salt, candidate.release_id, device_id)
        if place < candidate.exposure_percent:
            return _answer(candidate, policy.lease_seconds, "TARGETING_MATCH")
        if candidate.stage is ReleaseState.SHADOW and place < policy.shadow.device_percent:
            shadow = candidate
    live = newest_live(views, live, lambda view: _runs_on(store, view, app_version))
    if live is None:
        return _answer(None, policy.lease_seconds, "DISABLED")
    return _answer(live, policy.lease_seconds, "TARGETING_MATCH" if shadow else "DEFAULT", shadow)


def _policy(store: Store) -> ReleasePolicy:
    try:
        _last_good[store.ledger] = release_policy(store)
    except PolicyError:
        if store.ledger not in _last_good:
            raise
    return _last_good[store.ledger]


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


def needed_app(store: Store, view: ReleaseView) -> str | None:
    """The first app version that a release's bundle runs on; None where the catalogue does not have that bundle."""
    known = _min_app.setdefault(store.ledger, {})
    if view.bundle_digest not in known:
        bundle = find_bundle(store, view.model_version)
        if bundle is None or bundle.bundle_digest != view.bundle_digest:
            return None
        known[view.bundle_digest] = bundle.manifest.min_app_version
    return known[view.bundle_digest]


def newest_live(
    views: Sequence[ReleaseView], live: ReleaseView | None, runs: Callable[[ReleaseView], bool]
) -> ReleaseView | None:
    """The live release, or the newest one before it that `runs`: what an old app keeps. None where none does."""
    by_id = {view.release_id: view for view in views}
    while live is not None and not runs(live):
        live = by_id.get(live.previous_live or "")
    return live


def _runs_on(store: Store, view: ReleaseView, app_version: str) -> bool:
    needed = needed_app(store, view)
    return needed is not None and not is_older(app_version, needed)
