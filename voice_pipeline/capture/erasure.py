"""Taking consent back. The subject's key is destroyed first, which at that instant makes every copy of their audio, in
blobs, shards and all dataset versions, unreadable; then what was derived from it is removed and a tombstone stays.

Order: key, tombstones (one transaction with the ledger line), blobs, write-ahead logs. A crash after the first step is
finished by the next call or by `finish_erasures`; nothing erased can come back. Blobs that a crash after the second
step leaves are noise without the key; the next call deletes them. The tombstones come with a mark that the logs still
hold deleted text; it stays until they were scrubbed, so `finish_erasures` makes up for a crash or a reader that held
them. Withdrawing any consent erases the subject: a device that opts in
again starts with a fresh pseudonym.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select, update

from voice_pipeline.capture.errors import UnknownConsentError
from voice_pipeline.store.database import upsert
from voice_pipeline.store.learning import learnt_from
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import (
    clip_features,
    clips,
    consents,
    inbox,
    label_tasks,
    labels,
    ledger,
    meta,
    reviews,
    triage,
)

ERASURE = "erasure"
SCRUB_DUE = "erasure_scrub_due"
"""Key in `meta` while the write-ahead logs may still hold deleted text; its value names the attempt to come."""


@dataclass(frozen=True)
class Erasure:
    """What one erasure reached: clips removed, and the dataset versions and models (heirs by warm start included) that
    had learnt from them.
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
        upsert(connection, meta, {"key": SCRUB_DUE, "value": secrets.token_hex(8)})
    for key in blob_keys:
        store.blobs.delete(key)
    _scrub(store)
    return found


def unfinished_erasures(store: Store) -> list[str]:
    """Subjects whose key is destroyed but whose tombstones a crash left undone."""
    done = {line.subject for line in store.ledger.lines(kind=ERASURE)}
    return sorted(store.vault.erased() - done)


def scrub_due(store: Store) -> str | None:
    """The mark of an erasure whose text may still lie in a write-ahead log; another one after each failed attempt."""
    mark: str | None = store.database.scalar(select(meta.c.value).where(meta.c.key == SCRUB_DUE))
    return mark


def finish_erasures(store: Store) -> int:
    """Do what crashed erasures left undone, scrub the logs if that is due; returns how many erasures there were."""
    unfinished = unfinished_erasures(store)
    for token in unfinished:
        erase_subject(store, token, actor="finish_erasures")
    if not unfinished and scrub_due(store):
        _scrub(store)
    return len(unfinished)


def _scrub(store: Store) -> None:
    """Take deleted text out of the write-ahead logs and then the mark away, unless another erasure has marked anew."""
    mark = scrub_due(store)
    complete = all([store.vault.scrub(), store.database.scrub()])
    marked = (meta.c.key == SCRUB_DUE, meta.c.value == mark)
    with store.database.write() as connection:
        if complete:
            connection.execute(delete(meta).where(*marked))
        else:
            connection.execute(update(meta).where(*marked).values(value=secrets.token_hex(8)))


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
    learnt = learnt_from(connection, token)
    found = Erasure(token, tuple(ids), learnt.dataset_versions, learnt.model_versions)
    return found, [row.blob_key for row in (*owned, *received) if row.blob_key]
