"""Taking consent back. The subject's key is destroyed first, which at that instant makes every copy of their audio, in
blobs, shards and all dataset versions, unreadable; then what was derived from it is removed and a tombstone stays.

Order: key, tombstones (one transaction with the ledger line), blobs. A crash after the first step is finished by the
next call or by `finish_erasures`; nothing erased can come back. Blobs that a crash after the second step leaves are
noise without the key; the next call deletes them. Withdrawing any consent erases the subject: a device that opts in
again starts with a fresh pseudonym.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    ledger,
    models,
    reviews,
    triage,
)

ERASURE = "erasure"


@dataclass(frozen=True)
class Erasure:
    """What one erasure reached: clips removed, the dataset versions that held them, and the models (heirs by warm start
    included) that had learnt from those.
    """

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
    """Erase everything of a subject; a repeated call finds nothing more to do and says the same.

    A subject nobody has heard of gets a tombstone too: nothing of theirs may come later.
    """
    store.vault.ensure_subjects([token])
    store.vault.destroy(token)
    with store.database.write() as connection:
        found, blob_keys = _tombstones(connection, token, store.now().isoformat())
        if (
            connection.execute(select(ledger.c.seq).where(ledger.c.kind == ERASURE, ledger.c.subject == token)).first()
            is None
        ):
            payload = {
                "clips": len(found.clip_ids),
                "dataset_versions": list(found.dataset_versions),
                "models": list(found.model_versions),
            }
            store.ledger.append(ERASURE, token, payload, actor, connection=connection)
    for key in blob_keys:
        store.blobs.delete(key)
    return found


def unfinished_erasures(store: Store) -> list[str]:
    """Subjects whose key is destroyed but whose tombstones a crash left undone."""
    done = {line.subject for line in store.ledger.lines(kind=ERASURE)}
    return sorted(store.vault.erased() - done)


def finish_erasures(store: Store) -> int:
    """Do what crashed erasures left undone; returns how many there were."""
    unfinished = unfinished_erasures(store)
    for token in unfinished:
        erase_subject(store, token, actor="finish_erasures")
    return len(unfinished)


def _tombstones(connection: Connection, token: str, now: str) -> tuple[Erasure, list[str]]:
    """Remove what was derived and mark what stays; returns what it reached and the blobs to delete."""
    owned = connection.execute(select(clips.c.clip_id, clips.c.blob_key).where(clips.c.subject_token == token)).all()
    received = connection.execute(
        select(inbox.c.event_id, inbox.c.blob_key).where(inbox.c.event["consent"]["subject_token"].as_string() == token)
    ).all()
    ids = sorted(row.clip_id for row in owned)
    for table in (labels, reviews, label_tasks, triage, clip_features):
        connection.execute(delete(table).where(table.c.clip_id.in_(ids)))
    connection.execute(
        update(clips)
        .where(clips.c.subject_token == token, clips.c.erased_at.is_(None))
        .values(erased_at=now, hypothesis=None, accent="", gender="", age="")
    )
    connection.execute(
        update(inbox)
        .where(inbox.c.event_id.in_([row.event_id for row in received]))
        .values(state="erased", event={"consent": {"subject_token": token}})
    )
    connection.execute(
        update(consents)
        .where(consents.c.subject_token == token, consents.c.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    versions = sorted(
        connection.execute(
            select(dataset_clips.c.dataset_version).where(dataset_clips.c.subject_token == token).distinct()
        ).scalars()
    )
    found = Erasure(token, tuple(ids), tuple(versions), _learnt_from(connection, versions))
    return found, [row.blob_key for row in (*owned, *received) if row.blob_key]


def _learnt_from(connection: Connection, dataset_versions: Sequence[str]) -> tuple[str, ...]:
    """Models trained on any of `dataset_versions`, and all that started from such a model's weights."""
    rows = connection.execute(
        select(models.c.model_version, models.c.dataset_version, models.c.parent_model_version)
    ).all()
    learnt = {row.model_version for row in rows if row.dataset_version in dataset_versions}
    while heirs := {row.model_version for row in rows if row.parent_model_version in learnt} - learnt:
        learnt |= heirs
    return tuple(sorted(learnt))
