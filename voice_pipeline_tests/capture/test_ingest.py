"""Promises of ingest: every event ends as a clip or in quarantine with a reason; bad or lost audio stops nobody."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from voice_pipeline.capture.admission import RefusedAudioError, decode_clip
from voice_pipeline.capture.errors import LostAudioError
from voice_pipeline.capture.ingest import ingest_day
from voice_pipeline.capture.intake import accept, accept_many
from voice_pipeline.speech.audio import decode, encode_flac, encode_wav
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, consents, inbox, quarantine
from voice_pipeline_tests.capture.clips import DAY, capture, count, reason_of, tone


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


def test_a_repeated_event_after_ingest_is_still_one_clip(store: Store) -> None:
    accept(store, capture(1), tone())
    ingest_day(store, DAY)
    assert accept(store, capture(1), tone()).duplicate
    assert ingest_day(store, DAY).catalogued == 0
    assert count(store, clips) == 1


def test_revoked_between_acceptance_and_ingest_is_quarantined(store: Store) -> None:
    accept(store, capture(1), tone())
    with store.database.write() as connection:
        connection.execute(consents.update().values(revoked_at=store.now().isoformat()))
    assert ingest_day(store, DAY).quarantined == {"no_consent": 1}
    assert count(store, clips) == 0


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
        (tone()[:-1], "unreadable_audio"),
        (tone()[:4_000], "unreadable_audio"),
        (_file(SILENCE, 8_000), "wrong_sample_rate"),
        (_file(np.zeros((8_000, 2), np.int16)), "not_mono"),
        (_file(SILENCE[:0]), "empty"),
        (_file(SILENCE[:100]), "empty"),
        (_file(np.zeros(31 * 16_000, np.int16)), "too_long"),
        (_file(SILENCE, container="OGG"), "unreadable_audio"),
    ],
)
def test_bad_audio_lies_in_quarantine_with_itsreason_of(store: Store, audio: bytes, reason: str) -> None:
    accept_many(store, [(capture(1), audio), (capture(2), tone())])
    summary = ingest_day(store, DAY)
    assert summary.quarantined == {reason: 1}
    assert summary.catalogued == 1
    assert reason_of(store, "event-000001") == reason


@pytest.mark.parametrize(("audio", "told"), [(tone()[:4_000], "12800 bytes of sound, 3956 are there")])
def test_the_quarantine_says_how_much_of_a_cut_clip_is_there(store: Store, audio: bytes, told: str) -> None:
    accept(store, capture(1), audio)
    ingest_day(store, DAY)
    row = store.database.row(select(quarantine))
    assert row is not None
    assert row["clip_id"] == capture(1).clip_id
    assert told in row["detail"]


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
def test_any_bytes_either_decode_within_limits_or_are_refused_with_areason_of(audio: bytes) -> None:
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
    start = count(store, inbox)
    accept_many(store, [(capture(start + n), audio) for n, audio in enumerate(batch)])
    summary = ingest_day(store, DAY)  # every recording here is shorter than 0.1 s, or none at all
    assert sum(summary.quarantined.values()) == len(batch)
    assert count(store, quarantine) == count(store, inbox)


def test_lost_audio_is_told_and_holds_up_nobody_else(store: Store) -> None:
    accept_many(store, [(capture(n), tone(n)) for n in range(4)])
    keys = store.database.rows(select(inbox.c.blob_key).order_by(inbox.c.event_id))
    whole = store.blobs.get(keys[1]["blob_key"])
    store.blobs.delete(keys[0]["blob_key"])
    store.blobs.put(keys[1]["blob_key"], whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(LostAudioError, match="2 acknowledged clips"):
        ingest_day(store, DAY)
    assert count(store, clips) == 2
    store.blobs.put(keys[1]["blob_key"], whole)  # restored from a backup
    with pytest.raises(LostAudioError, match="1 acknowledged clips"):
        ingest_day(store, DAY)
    assert count(store, clips) == 3
