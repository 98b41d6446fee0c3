"""Small bundles in a home's catalogue, and releases of them in its ledger, as the stages before and after would."""

from __future__ import annotations

from sqlalchemy import insert

from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import bundles
from voice_pipeline_tests.transitions import take

TO_PRODUCTION = tuple(
    ReleaseState(name) for name in ("candidate", "gated", "shadow", "canary_5", "canary_25", "canary_50", "production")
)


def catalogue(store: Store, manifest: BundleManifest) -> None:
    """Name a bundle that lies in `settings.bundles` in the catalogue."""
    row = {"bundle_digest": manifest.digest, "model_version": manifest.model_version, "size": 1}
    row |= {"manifest": manifest.model_dump(mode="json"), "created_at": store.now().isoformat()}
    row |= {"uri": str(store.settings.bundles / manifest.model_version)}
    with store.database.write() as connection:
        connection.execute(insert(bundles).values(**row))


def release(store: Store, manifest: BundleManifest, *states: ReleaseState, number: int = 1, reason: str = "so") -> None:
    """Take release `number` of a bundle on through `states`."""
    take(store, f"{manifest.model_version}-r{number}", manifest.model_version, manifest.digest, *states, reason=reason)
