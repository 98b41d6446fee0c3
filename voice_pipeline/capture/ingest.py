"""From the inbox to a catalogued clip.

Promises:
- `ingest_day` ends every event as a clip or as a quarantine entry with a reason, unless its subject was erased.
- It may be killed anywhere and run again: nothing is lost, doubled or half-written.
- An event whose audio is lost or damaged is told, stays in the inbox and holds up no other.

`chunks` tells the order of writes; the audio as received is deleted last, once its clip is catalogued.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, select, update

from voice_pipeline.capture.admission import Refusal, RefusedAudioError, decode_clip
from voice_pipeline.capture.chunks import CHUNK, enter_quarantine, side_by_side
from voice_pipeline.capture.errors import LostAudioError
from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.schema.clip import CaptureEvent, QuarantineReason
from voice_pipeline.speech import audio as speech_audio
from voice_pipeline.store.database import insert_new
from voice_pipeline.store.errors import BlobDigestError, ErasedSubjectError, MissingBlobError
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, consents, inbox


@dataclass(frozen=True)
class IngestSummary:
    """What one call of `ingest_day` did. `quarantined` counts by reason."""

    day: str
    catalogued: int
    quarantined: dict[str, int]
    erased: int


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
        judged = side_by_side(lambda row: _judge(store, row), rows)
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
                enter_quarantine(connection, one.row, refusal, at)
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
    side_by_side(lambda row: store.blobs.delete(row["blob_key"]), rows)
    if rows:
        with store.database.write() as connection:
            connection.execute(
                update(inbox)
                .where(inbox.c.capture_date == day, inbox.c.state == "catalogued", inbox.c.blob_key != "")
                .where(inbox.c.event_id.in_([row["event_id"] for row in rows]))
                .values(blob_key="")
            )
