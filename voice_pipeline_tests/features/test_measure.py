"""Each clip is measured once, from its own audio, and remembered with the instant it became known."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from voice_pipeline.features.measure import measure_day
from voice_pipeline.speech.audio import decode
from voice_pipeline.speech.measures import measure
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.errors import BlobDigestError, MissingBlobError
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clip_features, clips
from voice_pipeline_tests.store.labelled_home import add_batch

DAY = "2026-11-02"


def test_measures_are_those_of_the_audio(store: Store) -> None:
    made = {clip.clip_id: clip for clip in add_batch(store, "batch-20261102-001", ["a", "b"])}
    assert measure_day(store, DAY).measured == 4
    for row in store.database.rows(select(clip_features)):
        assert row["values"] == asdict(measure(decode(made[row["clip_id"]].flac)))
        assert row["known_at"] == store.now().isoformat()


def test_measuring_again_measures_only_what_is_new(store: Store, clock: ManualClock) -> None:
    add_batch(store, "batch-20261102-001", ["a"])
    measure_day(store, DAY)
    before = {row["clip_id"]: row["known_at"] for row in store.database.rows(select(clip_features))}
    clock.advance(timedelta(hours=1))
    add_batch(store, "batch-20261102-002", ["b"])
    summary = measure_day(store, DAY)
    assert (summary.clips, summary.measured) == (4, 2)
    after = {row["clip_id"]: row["known_at"] for row in store.database.rows(select(clip_features))}
    assert {clip: after[clip] for clip in before} == before
    assert measure_day(store, "2026-11-03").clips == 0


def test_clips_of_erased_people_are_not_measured(store: Store) -> None:
    add_batch(store, "batch-20261102-001", ["a", "b"])
    store.vault.destroy("a")
    summary = measure_day(store, DAY)
    assert (summary.measured, summary.erased) == (2, 2)
    with store.database.write() as connection:
        connection.execute(update(clips).where(clips.c.subject_token == "a").values(erased_at="2026-11-02"))
    assert measure_day(store, DAY).clips == 2


def test_lost_or_changed_audio_is_an_error_not_a_gap(store: Store) -> None:
    made = add_batch(store, "batch-20261102-001", ["a"])
    store.blobs.put(f"clips/{made[0].clip_id}", store.blobs.get(f"clips/{made[1].clip_id}"))
    with pytest.raises(BlobDigestError, match="another clip"):
        measure_day(store, DAY)
    store.blobs.delete(f"clips/{made[0].clip_id}")
    with pytest.raises(MissingBlobError, match=made[0].clip_id):
        measure_day(store, DAY)
    assert store.database.rows(select(clip_features)) == []
