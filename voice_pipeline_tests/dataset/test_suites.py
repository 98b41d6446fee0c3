"""A suite is frozen: the same clips are the same suite, anything else is another one with another name."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from voice_pipeline.dataset.errors import EmptySuiteError
from voice_pipeline.dataset.snapshot import snapshot
from voice_pipeline.dataset.suites import freeze_suites
from voice_pipeline.schema.dataset import EvalSuite
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import labels, noises
from voice_pipeline_tests.store.labelled_home import TEST_SCOPES, add_batch

PEOPLE = [f"person-{number}" for number in range(9)]


def freeze(store: Store) -> EvalSuite:
    return freeze_suites(store, snapshot(store).dataset_version)


def test_training_clips_that_come_later_leave_the_suite_as_it_is(store: Store) -> None:
    tests = add_batch(store, "batch-20260301-001", ["tester"], scopes=TEST_SCOPES)
    add_batch(store, "batch-20260301-002", PEOPLE)
    first = freeze(store)
    assert first.name == "core-v1"
    assert first.clip_ids == tuple(sorted(clip.clip_id for clip in tests))
    add_batch(store, "batch-20260302-001", ["newcomer"])
    assert freeze(store) == first


def test_a_new_test_clip_or_a_corrected_transcript_makes_a_new_suite(store: Store) -> None:
    tests = add_batch(store, "batch-20260301-001", ["tester"], scopes=TEST_SCOPES)
    first = freeze(store)
    add_batch(store, "batch-20260302-001", ["tester-2"], scopes=TEST_SCOPES)
    second = freeze(store)
    with store.database.write() as connection:
        connection.execute(update(labels).where(labels.c.clip_id == tests[0].clip_id).values(text="corrected"))
    third = freeze(store)
    assert [suite.name for suite in (first, second, third)] == ["core-v1", "core-v2", "core-v3"]
    assert second.clip_ids == third.clip_ids
    assert second.digest != third.digest


def test_an_erased_test_speaker_makes_a_new_suite_without_them(store: Store) -> None:
    add_batch(store, "batch-20260301-001", ["tester", "tester-2"], scopes=TEST_SCOPES)
    assert len(freeze(store).clip_ids) == 4
    store.vault.destroy("tester")
    second = freeze(store)
    assert (second.name, len(second.clip_ids)) == ("core-v2", 2)


def test_the_noises_of_a_suite_are_pinned(store: Store) -> None:
    add_batch(store, "batch-20260301-001", ["tester"], scopes=TEST_SCOPES)
    before = freeze(store)
    row = {"noise_id": "cafe", "kind": "noise", "category": "cafe", "licence": "", "blob_key": "n", "sha256": "0"}
    with store.database.write() as connection:
        connection.execute(noises.insert(), {**row, "duration_s": 3.0})
        connection.execute(noises.insert(), {**row, "noise_id": "hall", "kind": "rir", "duration_s": 1.0})
    after = freeze(store)
    assert (before.noise_ids, after.noise_ids) == ((), ("cafe",))
    assert before.digest != after.digest


def test_a_version_without_test_clips_has_no_suite(store: Store) -> None:
    add_batch(store, "batch-20260301-001", PEOPLE[:3])  # too few to draw a test speaker
    with pytest.raises(EmptySuiteError, match="no test clip"):
        freeze(store)
