"""Promises of the intake: durable, once, consented, bounded."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import select

from voice_pipeline.capture.ingest import ingest_day
from voice_pipeline.capture.intake import accept, accept_many
from voice_pipeline.schema.clip import MAX_CLIP_BYTES, QuarantineReason
from voice_pipeline.schema.consent import Scope
from voice_pipeline.speech.audio import decode
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, consents, inbox
from voice_pipeline_tests.capture.clips import DAY, NOON, capture, count, reason_of, receipt, tone


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
    assert count(store, inbox) == 2


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
    assert reason_of(store, "event-000002") == reason.value
    assert not list((store.settings.root / "blobs").rglob(f"{answer.clip_id}*"))


def test_the_first_receipt_counts_and_is_recorded_once(store: Store) -> None:
    accept_many(store, [(capture(n), tone(n)) for n in range(5)])
    assert count(store, consents) == 1


def test_audio_over_the_limit_is_refused_and_not_stored(store: Store) -> None:
    answer = accept(store, capture(1), bytes(MAX_CLIP_BYTES + 1))
    assert answer.refused is QuarantineReason.TOO_LARGE
    assert reason_of(store, "event-000001") == "too_large"


def test_a_device_clock_far_off_counts_as_the_day_of_receipt(store: Store) -> None:
    today = store.now().date().isoformat()
    for number, claimed in enumerate([NOON - timedelta(days=400), NOON + timedelta(days=400)]):
        accept(store, capture(number, at=claimed), tone(number))
    assert {row["capture_date"] for row in store.database.rows(select(inbox.c.capture_date))} == {today}
