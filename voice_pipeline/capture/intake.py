"""From a device's post to a catalogued clip.

Promises:
- `accept` returns only when the event and its audio are on disk; whoever got an answer never has to send again.
- The same event twice is one clip. A second event cannot replace the audio of a first.
- Audio without a consent that lets people listen to it is never stored.
- `ingest_day` ends every event as a clip or as a quarantine entry with a reason. It may be killed anywhere and run
  again: nothing is lost, doubled or half-written.

Order of writes: blob (fsync, move), then one transaction that makes it count. A crash between the two leaves an
encrypted blob that nothing names and that the repeated call overwrites.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection, RowMapping, or_, select, update

from voice_pipeline.capture.admission import Refusal, RefusedAudioError, decode_clip, refusal_of
from voice_pipeline.capture.days import partition_day
from voice_pipeline.capture.errors import LostAudioError
from voice_pipeline.schema.canonical import digest, sha256_bytes
from voice_pipeline.schema.clip import CaptureEvent, QuarantineReason
from voice_pipeline.speech import audio as speech_audio
from voice_pipeline.store.database import insert_new
from voice_pipeline.store.errors import BlobDigestError, ErasedSubjectError, MissingBlobError
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, consents, inbox, quarantine

CHUNK = 100
"""Clips per transaction."""

WRITERS = 8
"""Blobs written at a time."""

T = TypeVar("T")
R = TypeVar("R")

Receipts = dict[str, Mapping[str, object]]
"""Recorded consents by id."""


@dataclass(frozen=True)
class Accepted:
    """The durable answer to one event. `refused` is set when it went straight to quarantine, without its audio."""

    clip_id: str
    duplicate: bool
    refused: QuarantineReason | None = None


@dataclass(frozen=True)
class IngestSummary:
    """What one call of `ingest_day` did. `quarantined` counts by reason."""

    day: str
    catalogued: int
    quarantined: dict[str, int]
    erased: int


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
    keys = _side_by_side(lambda item: _store_original(store, *item), list(admissible.values()))
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


def _side_by_side(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`work` on each item, several at a time: flushes to disk overlap and file systems commit them together."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(work, items))


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
                _enter_quarantine(connection, row, refusal, received.isoformat())
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


def _enter_quarantine(connection: Connection, row: RowMapping | dict[str, object], refusal: Refusal, at: str) -> None:
    entry = {
        "event_id": row["event_id"],
        "clip_id": row["clip_id"],
        "capture_date": row["capture_date"],
        "reason": refusal.reason.value,
        "detail": refusal.detail,
        "at": at,
    }
    insert_new(connection, quarantine, [entry])


# --- ingest -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Judged:
    """One inbox row after decoding: a clip row, a refusal, or an erased subject (both None)."""

    row: RowMapping
    clip: dict[str, object] | None
    refusal: Refusal | None


def ingest_day(store: Store, day: str) -> IngestSummary:
    """Turn every new event of `day` (`YYYY-MM-DD`) into a clip or a quarantine entry.

    Raises:
        LostAudioError: stored audio of some events is missing or damaged. All others were ingested; those stay in the
            inbox until the blobs are restored or their subjects erased.
    """
    counts: Counter[str] = Counter()
    lost: list[str] = []
    for rows in _new_rows(store, day):
        judged = _side_by_side(lambda row: _judge(store, row), rows)
        lost += [str(row["clip_id"]) for row, one in zip(rows, judged, strict=True) if one is None]
        counts.update(_commit(store, [one for one in judged if one is not None]))
    _drop_originals(store, day)
    if lost:
        raise LostAudioError(
            f"{len(lost)} acknowledged clips of {day} have no readable audio in the blob store (first: {lost[0]}); "
            "restore the blobs and run the day again"
        )
    reasons = {reason.value: counts[reason.value] for reason in QuarantineReason if counts[reason.value]}
    return IngestSummary(day, counts["catalogued"], reasons, counts["erased"])


def _new_rows(store: Store, day: str) -> Iterator[Sequence[RowMapping]]:
    """Chunks of the day's new rows, in order of event id; a row that stays `new` is met only once."""
    last = ""
    while True:
        rows = store.database.rows(
            select(inbox)
            .where(inbox.c.capture_date == day, inbox.c.state == "new", inbox.c.event_id > last)
            .order_by(inbox.c.event_id)
            .limit(CHUNK)
        )
        if not rows:
            return
        last = rows[-1]["event_id"]
        yield rows


def _judge(store: Store, row: RowMapping) -> _Judged | None:
    """Decode and validate one event; its re-encoded audio is in the blob store when this returns a clip.

    None: what was acknowledged is not in the blob store as it was.
    """
    event = CaptureEvent.model_validate(row["event"])
    token = event.consent.subject_token
    try:
        data = store.vault.decrypt(token, store.blobs.get(row["blob_key"]), event.clip_id)
        if sha256_bytes(data) != row["sha256"]:
            return None
        try:
            samples = decode_clip(data)
        except RefusedAudioError as refused:
            return _Judged(row, None, refused.refusal)
        key = f"clips/{event.clip_id}"
        store.blobs.put(key, store.vault.encrypt(token, speech_audio.encode_flac(samples), event.clip_id))
    except ErasedSubjectError:
        return _Judged(row, None, None)
    except (MissingBlobError, BlobDigestError):
        return None
    return _Judged(row, _clip_row(row, event, samples, key), None)


def _clip_row(row: RowMapping, event: CaptureEvent, samples: speech_audio.Samples, key: str) -> dict[str, object]:
    context = event.context
    return {
        "clip_id": event.clip_id,
        "content_sha256": sha256_bytes(speech_audio.pcm16(samples)),
        "subject_token": event.consent.subject_token,
        "consent_id": event.consent.consent_id,
        "capture_date": row["capture_date"],
        "captured_at": event.captured_at.isoformat(),
        "received_at": row["received_at"],
        "duration_s": samples.size / speech_audio.SAMPLE_RATE,
        "device_class": context.device_class.value,
        "os": context.os,
        "app_version": context.app_version,
        "microphone": context.microphone.value,
        "locale": context.locale,
        "accent": event.accent,
        "gender": event.gender,
        "age": event.age,
        "source": event.source,
        "failure_mode": event.failure_mode.value,
        "model_version": event.model_version,
        "hypothesis": event.hypothesis,
        "confidence": event.confidence,
        "latency_ms": event.latency_ms,
        "blob_key": key,
        "erased_at": None,
    }


def _commit(store: Store, judged: Sequence[_Judged]) -> Counter[str]:
    """One transaction for one chunk; rows that another run or an erasure took meanwhile are left alone."""
    counts: Counter[str] = Counter()
    at = store.now().isoformat()
    orphans = []
    with store.database.write() as connection:
        ids = [j.row["event_id"] for j in judged]
        still_new = set(
            connection.execute(
                select(inbox.c.event_id).where(inbox.c.event_id.in_(ids), inbox.c.state == "new")
            ).scalars()
        )
        erased = store.vault.erased()
        revoked = _revoked(connection, judged)
        for one in judged:
            if one.row["event_id"] not in still_new:
                continue
            clip, refusal = one.clip, one.refusal
            if clip is not None and clip["consent_id"] in revoked:
                refusal = Refusal(QuarantineReason.NO_CONSENT, f"consent {clip['consent_id']} was revoked")
            if clip is not None and (refusal is not None or clip["subject_token"] in erased):
                orphans.append(str(clip["blob_key"]))
                clip = None
            if clip is not None:
                insert_new(connection, clips, [clip])
                state = "catalogued"
            elif refusal is not None:
                _enter_quarantine(connection, one.row, refusal, at)
                state = "quarantined"
            else:
                state = "erased"
            connection.execute(update(inbox).where(inbox.c.event_id == one.row["event_id"]).values(state=state))
            counts[refusal.reason.value if state == "quarantined" and refusal else state] += 1
    for key in orphans:
        store.blobs.delete(key)
    return counts


def _revoked(connection: Connection, judged: Sequence[_Judged]) -> set[str]:
    wanted = {str(j.clip["consent_id"]) for j in judged if j.clip is not None}
    return set(
        connection.execute(
            select(consents.c.consent_id).where(consents.c.consent_id.in_(wanted), consents.c.revoked_at.is_not(None))
        ).scalars()
    )


def _drop_originals(store: Store, day: str) -> None:
    """Delete the received bytes of catalogued clips: `clips/` holds them losslessly. A later call finishes this."""
    rows = store.database.rows(
        select(inbox.c.event_id, inbox.c.blob_key).where(
            inbox.c.capture_date == day, inbox.c.state == "catalogued", inbox.c.blob_key != ""
        )
    )
    _side_by_side(lambda row: store.blobs.delete(row["blob_key"]), rows)
    if rows:
        with store.database.write() as connection:
            connection.execute(
                update(inbox)
                .where(inbox.c.capture_date == day, inbox.c.state == "catalogued", inbox.c.blob_key != "")
                .where(inbox.c.event_id.in_([row["event_id"] for row in rows]))
                .values(blob_key="")
            )
