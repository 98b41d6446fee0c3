"""Which app runs which bundle: app version and model version are two tracks, joined by a range and nothing else.

The range of a bundle begins with its `min_app_version` and ends with the last app that reads its manifest's format
(`compatibility` in policy/release.yaml; both ends included). An app outside the live model's range keeps the newest
model before it within whose range the app lies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from voice_pipeline.release.gates.evidence import find_bundle
from voice_pipeline.schema.release_policy import Compatibility
from voice_pipeline.store.ledger import Ledger
from voice_pipeline.store.releases import ReleaseView
from voice_pipeline.store.store import Store
from voice_pipeline.trust import is_older

_known: WeakKeyDictionary[Ledger, dict[str, tuple[str, int]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class AppRange:
    """App versions from `first` to `last`, both included; `last` None: every later one."""

    first: str
    last: str | None

    def holds(self, app_version: str) -> bool:
        """Whether the app lies in the range, by the first three numbers of its version."""
        return not is_older(app_version, self.first) and (self.last is None or not is_older(self.last, app_version))


def app_range(store: Store, rules: Compatibility, view: ReleaseView) -> AppRange | None:
    """The apps that a release's bundle runs on; None where the catalogue does not have that bundle."""
    known = _known.setdefault(store.ledger, {})
    if view.bundle_digest not in known:
        bundle = find_bundle(store, view.model_version)
        if bundle is None or bundle.bundle_digest != view.bundle_digest:
            return None
        known[view.bundle_digest] = bundle.manifest.min_app_version, bundle.manifest.format_version
    first, format_version = known[view.bundle_digest]
    return AppRange(first, rules.last_app_of_format.get(format_version))


def runs(store: Store, rules: Compatibility, app_version: str, view: ReleaseView) -> bool:
    """Whether an app is known to run a release: what a device may be given."""
    found = app_range(store, rules, view)
    return found is not None and found.holds(app_version)


def may_run(store: Store, rules: Compatibility, app_version: str, view: ReleaseView) -> bool:
    """The same, but True where nobody knows what the release needs: so that its harm is seen."""
    found = app_range(store, rules, view)
    return found is None or found.holds(app_version)


def newest_live(
    views: Sequence[ReleaseView], live: ReleaseView | None, runs: Callable[[ReleaseView], bool]
) -> ReleaseView | None:
    """The live release, or the newest one before it that `runs`: what an old app keeps. None where none does."""
    by_id = {view.release_id: view for view in views}
    while live is not None and not runs(live):
        live = by_id.pop(live.previous_live or "", None)  # each at most once, whatever a ledger says
    return live
