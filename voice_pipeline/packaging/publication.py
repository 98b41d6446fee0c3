"""A bundle counts as published once the metadata that names it is in force, and the catalogue and the ledger say so.

Where the offline keys lie elsewhere that is later than its build: whoever accepts their signatures, and otherwise the
repository's sensor, finishes what was signed. Repeating does nothing.
"""

from __future__ import annotations

from sqlalchemy import select, update

from voice_pipeline.packaging.archive import former_name, target_name
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.packaging.rotation import continue_revocation, revocation_begun
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.publication import PUBLISHED
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import bundles


def record_publication(
    store: Store, model_version: str, bundle_digest: str, archive_sha256: str, archive_bytes: int
) -> bool:
    """Note that a bundle is on offer, the first time with a ledger line; True if it was the first time. The line tells
    digest and length of the archive: the release gates judge what devices fetch.
    """
    with store.database.write() as connection:
        first = connection.execute(
            update(bundles)
            .where(bundles.c.bundle_digest == bundle_digest, bundles.c.published_at.is_(None))
            .values(published_at=store.now().isoformat())
        ).rowcount
        if first:
            archive = {"archive_sha256": archive_sha256, "archive_bytes": archive_bytes}
            payload = {"model_version": model_version, **archive}
            store.ledger.append(PUBLISHED, bundle_digest, payload, "packaging", connection=connection)
    return bool(first)


def unknown_targets(store: Store) -> list[str]:
    """Names of targets, on offer or waiting to be, that are no bundle of the catalogue: what a thief of a targets key
    put there. A new key would vouch for them again.
    """
    rows = store.database.rows(select(bundles.c.model_version, bundles.c.bundle_digest))
    known = {
        (name, row["bundle_digest"])
        for row in rows
        for name in (target_name(row["model_version"]), former_name(row["model_version"]))
    }
    entries = UpdateRepository(store.settings, store.now()).entries()
    return sorted(name for name, custom in entries.items() if (name, custom.get("bundle_digest")) not in known)


def finish_publications(store: Store) -> tuple[str, ...]:
    """Record the bundles whose signatures came later, and go on with a revocation of bundle keys. Returns the model
    versions that are published now and were not before.
    """
    continue_revocation(store.settings, store.now())
    offered = UpdateRepository(store.settings, store.now()).published()
    finished = [
        version
        for version, bundle_digest in _unpublished(store)
        if (on_offer := offered.get(version)) is not None
        and on_offer["bundle_digest"] == bundle_digest
        and record_publication(store, version, bundle_digest, on_offer["archive_sha256"], on_offer["archive_bytes"])
    ]
    return tuple(finished)


def publications_due(store: Store) -> str | None:
    """The digest of what `finish_publications` would do: bundles that are on offer and not recorded, a revocation whose
    next step waits for no signature. None if there is nothing. It changes each hour, so what failed is tried again.
    """
    hour = f"{store.now():%Y-%m-%dT%H}"
    waiting, repository = _unpublished(store), UpdateRepository(store.settings, store.now())
    if revocation_begun(store.settings) and not repository.pending():
        return digest({"revocation": sorted(path.name for path in repository.metadata.iterdir()), "hour": hour})
    if not waiting:
        return None
    offered = repository.published()
    due = [[mv, sha] for mv, sha in waiting if offered.get(mv, {}).get("bundle_digest") == sha]
    return digest({"publications": due, "hour": hour}) if due else None


def _unpublished(store: Store) -> list[tuple[str, str]]:
    rows = store.database.rows(select(bundles).where(bundles.c.published_at.is_(None)))
    return [(row["model_version"], row["bundle_digest"]) for row in rows]
