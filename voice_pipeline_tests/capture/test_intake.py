"""Promises of the intake: durable, once, consented, bounded."""

from __future__ import annotations

import io
import struct
from datetime import timedelta

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from voice_pipeline.capture.admission import RefusedAudioError, decode_clip
from voice_pipeline.capture.errors import LostAudioError
from voice_pipeline.capture.intake import accept, accept_many, ingest_day
from voice_pipeline.schema.clip import MAX_CLIP_BYTES, QuarantineReason
from voice_pipeline.schema.consent import Scope
from voice_pipeline.speech.audio import decode, encode_flac, encode_wav
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, consents, inbox, quarantine
from voice_pipeline_tests.capture.clips import DAY, NOON, capture, receipt, tone


def _count(store: Store, table: object) -> int:
    return int(store.database.scalar(select(func.count()).select_from(table)))  # type: ignore[arg-type]


def _reason(store: Store, event_id: str) -> str | None:
    return store.database.scalar(select(quarantine.c.reason).where(quarantine.c.event_id == event_id))


def test_an_acknowledged_clip_is_catalogued_with_the_same_samples(store: Store) -> None:
    audio = tone()
    answer = accept(store, capture(1), audio)
    summary = ingest_day(store, DAY)
    assert (summary.catalogued, summary.quarantined) == (1, {})
    row = store.database.row(select(clips).where(clips.c.clip_id == answer.clip_id))
    assert row is not None
    assert row["capture_date"] == DAY
    assert row["hypothesis"] == "call home"
    kept = store.vault.decrypt(row["subject_token"], store.blobs.get(row["blob_key"]), answer.clip_id)
    assert np.array_equal(decode(kept), decode(audio))


def test_audio_lies_encrypted_in_the_blob_store(store: Store) -> None:
    audio = tone()
    accept(store, capture(1), audio)
    key = store.database.scalar(select(inbox.c.blob_key))
    assert audio[100:200] not in store.blobs.get(key)


def test_the_same_event_twice_is_one_clip(store: Store) -> None:
    first = accept(store, capture(1), tone())
    again = accept(store, capture(1), tone())
    both = accept_many(store, [(capture(2), tone(2)), (capture(2), tone(2))])
    assert (first.duplicate, again.duplicate) == (False, True)
    assert [answer.duplicate for answer in both] == [False, True]
    assert _count(store, inbox) == 2


def test_a_repeated_event_after_ingest_is_still_one_clip(store: Store) -> None:
    accept(store, capture(1), tone())
    ingest_day(store, DAY)
    assert accept(store, capture(1), tone()).duplicate
    assert ingest_day(store, DAY).catalogued == 0
    assert _count(store, clips) == 1


def test_a_second_event_cannot_replace_the_audio_of_a_clip(store: Store) -> None:
    accept(store, capture(1), tone(1))
    hijack = capture(1).model_copy(update={"event_id": "event-hijack"})
    assert accept(store, hijack, tone(9)).duplicate
    ingest_day(store, DAY)
    row = store.database.row(select(clips))
    assert row is not None
    kept = store.vault.decrypt(row["subject_token"], store.blobs.get(row["blob_key"]), row["clip_id"])
    assert np.array_equal(decode(kept), decode(tone(1)))


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (None, receipt(scopes=frozenset({Scope.TRAIN})), QuarantineReason.NO_CONSENT),
        (None, receipt(scopes=frozenset()), QuarantineReason.NO_CONSENT),
        (receipt(), receipt(scopes=frozenset({Scope.TRANSCRIBE_REVIEW})), QuarantineReason.NO_CONSENT),
        (
            receipt(),
            receipt().model_copy(update={"subject_token": "token-mallory"}),
            QuarantineReason.SUBJECT_MISMATCH,
        ),
    ],
)
def test_audio_without_a_consent_to_listen_is_never_stored(store: Store, first, second, reason) -> None:  # type: ignore[no-untyped-def]
    if first is not None:
        accept(store, capture(1, first), tone())
    answer = accept(store, capture(2, second), tone(2))
    assert answer.refused is reason
    row = store.database.row(select(inbox).where(inbox.c.event_id == "event-000002"))
    assert row is not None
    assert (row["blob_key"], row["state"]) == ("", "quarantined")
    assert row["event"]["hypothesis"] is None
    assert _reason(store, "event-000002") == reason.value
    assert not list((store.settings.root / "blobs").rglob(f"{answer.clip_id}*"))


def test_the_first_receipt_counts_and_is_recorded_once(store: Store) -> None:
    accept_many(store, [(capture(n), tone(n)) for n in range(5)])
    assert _count(store, consents) == 1


def test_audio_over_the_limit_is_refused_and_not_stored(store: Store) -> None:
    answer = accept(store, capture(1), bytes(MAX_CLIP_BYTES + 1))
    assert answer.refused is QuarantineReason.TOO_LARGE
    assert _reason(store, "event-000001") == "too_large"


def test_revoked_between_acceptance_and_ingest_is_quarantined(store: Store) -> None:
    accept(store, capture(1), tone())
    with store.database.write() as connection:
        connection.execute(consents.update().values(revoked_at=store.now().isoformat()))
    assert ingest_day(store, DAY).quarantined == {"no_consent": 1}
    assert _count(store, clips) == 0


def _file(samples: np.ndarray, rate: int = 16_000, container: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype="PCM_16" if container != "OGG" else "VORBIS")
    return buffer.getvalue()


SILENCE = np.zeros(8_000, np.int16)


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        (b"", "empty"),
        (b"RIFF", "unreadable_audio"),
        (b"\x7fELF" + bytes(4000), "unreadable_audio"),
        (encode_flac(decode(tone()))[:-600], "unreadable_audio"),
        (_file(SILENCE, 8_000), "wrong_sample_rate"),
        (_file(np.zeros((8_000, 2), np.int16)), "not_mono"),
        (_file(SILENCE[:0]), "empty"),
        (_file(SILENCE[:100]), "empty"),
        (_file(np.zeros(31 * 16_000, np.int16)), "too_long"),
        (_file(SILENCE, container="OGG"), "unreadable_audio"),
    ],
)
def test_bad_audio_lies_in_quarantine_with_its_reason(store: Store, audio: bytes, reason: str) -> None:
    accept_many(store, [(capture(1), audio), (capture(2), tone())])
    summary = ingest_day(store, DAY)
    assert summary.quarantined == {reason: 1}
    assert summary.catalogued == 1
    assert _reason(store, "event-000001") == reason


def test_a_flac_header_that_claims_hours_allocates_nothing(store: Store) -> None:
    honest = bytearray(encode_flac(np.zeros(16_000, np.float32)))
    # STREAMINFO: the total of samples is the low 36 bits of bytes 18..26 of the file (RFC 9639, section 8.2)
    (packed,) = struct.unpack(">Q", honest[18:26])
    honest[18:26] = struct.pack(">Q", packed & ~((1 << 36) - 1) | (1 << 36) - 1)
    accept(store, capture(1), bytes(honest))
    assert ingest_day(store, DAY).quarantined == {"too_long": 1}


def _mangled(start: bytes) -> st.SearchStrategy[bytes]:
    """`start` cut short, with bytes changed, or followed by rubbish."""
    places = st.lists(st.tuples(st.integers(0, len(start) - 1), st.integers(0, 255)), max_size=6)

    def mangle(changes: list[tuple[int, int]], length: int, tail: bytes) -> bytes:
        changed = bytearray(start)
        for place, value in changes:
            changed[place] = value
        return bytes(changed[:length]) + tail

    return st.builds(mangle, places, st.integers(0, len(start)), st.binary(max_size=40))


HEADERS = (encode_wav(np.zeros(200, np.float32)), encode_flac(np.zeros(200, np.float32)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(audio=st.one_of(st.binary(max_size=300), *map(_mangled, HEADERS)))
def test_any_bytes_either_decode_within_limits_or_are_refused_with_a_reason(audio: bytes) -> None:
    try:
        samples = decode_clip(audio)
    except RefusedAudioError as error:
        refusal = error.refusal
    else:
        refusal = None
    if refusal is not None:
        assert refusal.detail
        return
    assert 0.1 <= samples.size / 16_000 <= 30
    assert np.isfinite(samples).all()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(st.one_of(st.binary(max_size=200), *map(_mangled, HEADERS)), min_size=1, max_size=12))
def test_arbitrary_bytes_never_stop_a_day_and_end_in_quarantine(store: Store, batch: list[bytes]) -> None:
    start = _count(store, inbox)
    accept_many(store, [(capture(start + n), audio) for n, audio in enumerate(batch)])
    summary = ingest_day(store, DAY)  # every recording here is shorter than 0.1 s, or none at all
    assert sum(summary.quarantined.values()) == len(batch)
    assert _count(store, quarantine) == _count(store, inbox)


def test_lost_audio_is_told_and_holds_up_nobody_else(store: Store) -> None:
    accept_many(store, [(capture(n), tone(n)) for n in range(4)])
    keys = store.database.rows(select(inbox.c.blob_key).order_by(inbox.c.event_id))
    whole = store.blobs.get(keys[1]["blob_key"])
    store.blobs.delete(keys[0]["blob_key"])
    store.blobs.put(keys[1]["blob_key"], whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(LostAudioError, match="2 acknowledged clips"):
        ingest_day(store, DAY)
    assert _count(store, clips) == 2
    store.blobs.put(keys[1]["blob_key"], whole)  # restored from a backup
    with pytest.raises(LostAudioError, match="1 acknowledged clips"):
        ingest_day(store, DAY)
    assert _count(store, clips) == 3


def test_a_device_clock_far_off_counts_as_the_day_of_receipt(store: Store) -> None:
    today = store.now().date().isoformat()
    for number, claimed in enumerate([NOON - timedelta(days=400), NOON + timedelta(days=400)]):
        accept(store, capture(number, at=claimed), tone(number))
    assert {row["capture_date"] for row in store.database.rows(select(inbox.c.capture_date))} == {today}
