"""From a device's post to a line in the inbox.

Promises:
- `accept` returns only when the event and its audio are on disk; whoever got an answer never has to send again.
- The same event twice is one clip. A second event cannot replace the audio of a first.
- Audio without a consent that lets people listen to it is never stored.

`chunks` tells the order of writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, or_, select

from voice_pipeline.capture.admission import Refusal, refusal_of
from voice_pipeline.capture.chunks import CHUNK, enter_quarantine, side_by_side
from voice_pipeline.capture.days import partition_day
from voice_pipeline.schema.canonical import digest, sha256_bytes
from voice_pipeline.schema.clip import CaptureEvent, QuarantineReason
from voice_pipeline.store.database import insert_new
from voice_pipeline.store.errors import ErasedSubjectError
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import consents, inbox

Receipts = dict[str, Mapping[str, object]]
"""Recorded consents by id."""


@dataclass(frozen=True)
class Accepted:
    """The durable answer to one event. `refused` is set when it went straight to quarantine, without its audio."""

    clip_id: str
    duplicate: bool
    refused: QuarantineReason | None = None


def accept(store: Store, event: CaptureEvent, audio: bytes) -> Accepted:
    """Store one event and its audio durably; see `accept_many`."""
    return accept_many(store, [(event, audio)])[0]


def accept_many(store: Store, items: Sequence[tuple[CaptureEvent, bytes]]) -> list[Accepted]:
    """Store events with their audio (a file's bytes) durably, one transaction per `CHUNK`; answers in the same order.

    An event that may not be stored (no consent, too large, …) is answered with `refused` and entered in the quarantine.
    """
    answers: list[Accepted] = []
    for start in range(0, len(items), CHUNK):
        answers += _accept_chunk(store, items[start : start + CHUNK])
    return answers


def _accept_chunk(store: Store, items: Sequence[tuple[CaptureEvent, bytes]]) -> list[Accepted]:
    events = [event for event, _ in items]
    with store.database.read() as connection:
        known = _known(connection, events)
        receipts = _receipts(connection, events)
    erased = store.vault.erased()
    admissible: dict[str, tuple[CaptureEvent, bytes]] = {}
    for event, audio in items:
        if not _is_known(known, event) and refusal_of(event, len(audio), receipts, erased) is None:
            admissible.setdefault(event.event_id, (event, audio))
    store.vault.ensure_subjects([event.consent.subject_token for event, _ in admissible.values()])
    keys = side_by_side(lambda item: _store_original(store, *item), list(admissible.values()))
    stored = {event_id: key for event_id, key in zip(admissible, keys, strict=True) if key is not None}
    return _acknowledge(store, items, stored)


def _store_original(store: Store, event: CaptureEvent, audio: bytes) -> str | None:
    """Put encrypted audio into the blob store; its key, or None if its subject was erased this very moment."""
    key = f"inbox/{event.clip_id}-{digest([event.event_id, sha256_bytes(audio)])[:12]}"
    try:
        store.blobs.put(key, store.vault.encrypt(event.consent.subject_token, audio, event.clip_id))
    except ErasedSubjectError:
        return None
    return key


def _acknowledge(store: Store, items: Sequence[tuple[CaptureEvent, bytes]], stored: dict[str, str]) -> list[Accepted]:
    """The transaction that makes a chunk count. Consent is judged again here, under the write lock."""
    answers = []
    unused = set(stored.values())
    received = store.now()
    with store.database.write() as connection:
        events = [event for event, _ in items]
        known = _known(connection, events)
        receipts = _receipts(connection, events)
        erased = store.vault.erased()
        for event, audio in items:
            if _is_known(known, event):
                answers.append(Accepted(known.get(event.event_id, event.clip_id), duplicate=True))
                continue
            refusal = refusal_of(event, len(audio), receipts, erased)
            if refusal is None and event.event_id not in stored:
                refusal = Refusal(QuarantineReason.NO_CONSENT, "its subject was erased")
            row = _inbox_row(event, audio, received.isoformat(), partition_day(event.captured_at, received))
            if refusal is None:
                row |= {"blob_key": stored[event.event_id]}
                unused.discard(stored[event.event_id])
                _record_receipt(connection, receipts, event)
            else:
                row |= {"state": "quarantined", "event": _without_content(row["event"])}
                enter_quarantine(connection, row, refusal, received.isoformat())
            insert_new(connection, inbox, [row])
            known[event.event_id] = event.clip_id
            known[event.clip_id] = event.clip_id
            answers.append(Accepted(event.clip_id, duplicate=False, refused=refusal.reason if refusal else None))
    for key in unused - _named_blobs(store, unused):
        store.blobs.delete(key)
    return answers


def _is_known(known: dict[str, str], event: CaptureEvent) -> bool:
    return event.event_id in known or event.clip_id in known


def _named_blobs(store: Store, keys: set[str]) -> set[str]:
    """Those of `keys` that an inbox row names: a retry that lost a race shares its key with the winner."""
    if not keys:
        return set()
    return {row["blob_key"] for row in store.database.rows(select(inbox.c.blob_key).where(inbox.c.blob_key.in_(keys)))}


def _known(connection: Connection, events: Sequence[CaptureEvent]) -> dict[str, str]:
    """Event ids and clip ids already in the inbox, each with its clip id."""
    rows = connection.execute(
        select(inbox.c.event_id, inbox.c.clip_id).where(
            or_(
                inbox.c.event_id.in_([event.event_id for event in events]),
                inbox.c.clip_id.in_([event.clip_id for event in events]),
            )
        )
    )
    return {key: row.clip_id for row in rows for key in (row.event_id, row.clip_id)}


def _receipts(connection: Connection, events: Sequence[CaptureEvent]) -> Receipts:
    wanted = {event.consent.consent_id for event in events}
    rows = connection.execute(select(consents).where(consents.c.consent_id.in_(wanted))).mappings()
    return {row["consent_id"]: dict(row) for row in rows}


def _record_receipt(connection: Connection, receipts: Receipts, event: CaptureEvent) -> None:
    consent = event.consent
    if consent.consent_id in receipts:
        return
    row: dict[str, object] = {
        "consent_id": consent.consent_id,
        "subject_token": consent.subject_token,
        "scopes": sorted(consent.scopes),
        "granted_at": consent.granted_at.isoformat(),
        "notice_version": consent.notice_version,
        "jurisdiction": consent.jurisdiction,
        "revoked_at": None,
    }
    insert_new(connection, consents, [row])
    receipts[consent.consent_id] = row


def _inbox_row(event: CaptureEvent, audio: bytes, received_at: str, day: str) -> dict[str, object]:
    return {
        "event_id": event.event_id,
        "clip_id": event.clip_id,
        "capture_date": day,
        "received_at": received_at,
        "event": event.model_dump(mode="json") | {"consent": _plain_consent(event)},
        "blob_key": "",
        "sha256": sha256_bytes(audio),
        "size": len(audio),
        "state": "new",
    }


def _plain_consent(event: CaptureEvent) -> dict[str, object]:
    plain = event.consent.model_dump(mode="json")
    return plain | {"scopes": sorted(plain["scopes"])}


def _without_content(event: object) -> dict[str, object]:
    """An event without what the person said or is: kept to explain a refusal."""
    assert isinstance(event, dict)
    return event | {"hypothesis": None, "accent": "", "gender": "", "age": ""}
