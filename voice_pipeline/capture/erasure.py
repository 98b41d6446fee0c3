"""Taking consent back. The subject's key is destroyed first, which at that instant makes every copy of their audio, in
blobs, shards and all dataset versions, unreadable; then what was derived from it is removed and a tombstone stays.

Order: key, tombstones (one transaction with the ledger line), blobs. A crash after the first step is finished by the
next call; nothing erased can come back.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, select, update

from voice_pipeline.capture.errors import UnknownConsentError
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import (
    clip_features,
    clips,
    consents,
    dataset_clips,
    inbox,
    label_tasks,
    labels,
    models,
    reviews,
    triage,
)

ERASURE = "erasure"


@dataclass(frozen=True)
class Erasure:
    """What one erasure reached: clips removed, and the dataset versions and models that had them."""

    subject_token: str
    clip_ids: tuple[str, ...]
    dataset_versions: tuple[str, ...]
    model_versions: tuple[str, ...]


def revoke_consent(store: Store, consent_id: str, actor: str) -> Erasure:
    """Erase the subject who gave `consent_id`. Raises `UnknownConsentError`."""
    token = store.database.scalar(select(consents.c.subject_token).where(consents.c.consent_id == consent_id))
    if token is None:
        raise UnknownConsentError(f"consent {consent_id} was never recorded; check the id on the receipt")
    return erase_subject(store, token, actor)


def erase_subject(store: Store, token: str, actor: str) -> Erasure:
    """Erase everything of a subject; a repeated call finds nothing more to do and says the same."""
    store.vault.ensure_subjects(
        [token]
    )  # a subject without a key gets a tombstone too: nothing of theirs may come later
    store.vault.destroy(token)
    with store.database.write() as connection:
        found, keys = _tombstones(connection, token, store.now().isoformat())
        if not store.ledger.lines(kind=ERASURE, subject=token):
            payload = {"clips": len(found.clip_ids), "models": list(found.model_versions)}
            store.ledger.append(ERASURE, token, payload, actor, connection=connection)
    for key in keys:
        store.blobs.delete(key)
    return found


def _tombstones(connection: Connection, token: str, now: str) -> tuple[Erasure, list[str]]:
    owned = connection.execute(select(clips.c.clip_id, clips.c.blob_key).where(clips.c.subject_token == token)).all()
    ids = [row.clip_id for row in owned]
    waiting = [
        row
        for row in connection.execute(select(inbox.c.event_id, inbox.c.event, inbox.c.blob_key)).all()
        if row.event["consent"]["subject_token"] == token
    ]
    for table in (labels, reviews, label_tasks, triage, clip_features):
        connection.execute(delete(table).where(table.c.clip_id.in_(ids)))
    connection.execute(
        update(clips)
        .where(clips.c.subject_token == token, clips.c.erased_at.is_(None))
        .values(erased_at=now, hypothesis=None, accent="", gender="", age="")
    )
    connection.execute(
        update(inbox)
        .where(inbox.c.event_id.in_([row.event_id for row in waiting]))
        .values(state="erased", event={"consent": {"subject_token": token}})
    )
    connection.execute(
        update(consents)
        .where(consents.c.subject_token == token, consents.c.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    datasets = connection.execute(
        select(dataset_clips.c.dataset_version).where(dataset_clips.c.subject_token == token).distinct()
    ).scalars()
    versions = sorted(datasets)
    learnt = connection.execute(select(models.c.model_version).where(models.c.dataset_version.in_(versions))).scalars()
    found = Erasure(token, tuple(sorted(ids)), tuple(versions), tuple(sorted(learnt)))
    return found, [row.blob_key for row in (*owned, *waiting)]
