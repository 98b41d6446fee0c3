"""The rows behind the views say what was known and since when; profile statistics roll over seven days."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.features.measure import measure_day
from voice_pipeline.features.sources import acoustic_rows, profile_rows
from voice_pipeline.settings import load_settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import telemetry
from voice_pipeline_tests.features.reports import PROFILE, report
from voice_pipeline_tests.store.labelled_home import add_batch

DAY = "2026-11-02"


def test_a_clip_is_known_when_measured_and_its_speaking_rate_when_labelled(store: Store) -> None:
    add_batch(store, "batch-20261102-001", ["a"], clips_each=1, text="four", seconds=0.5)
    approved = store.now()
    measure_day(store, DAY)
    (row,) = acoustic_rows(store)
    assert row["event_timestamp"] == approved
    assert row["speaking_rate"] == pytest.approx(8.0)


def test_a_label_that_comes_later_is_a_second_row_not_a_change_of_the_past(store: Store) -> None:
    add_batch(store, "batch-20261102-001", ["a"], clips_each=1, text="four", seconds=0.5, hypothesis="for you")
    measured = store.now() - timedelta(hours=3)
    measure_day(Store.open(store.settings, ManualClock(measured)), DAY)
    rows = acoustic_rows(store)
    assert [row["event_timestamp"] for row in rows] == [measured, store.now()]
    assert [row["speaking_rate"] for row in rows] == [pytest.approx(12.0), pytest.approx(8.0)]


def test_profile_statistics_cover_seven_days_and_are_known_at_the_days_end(store: Store, clock: ManualClock) -> None:
    start = store.now()
    report(store, start, words=10, corrected=5, snr_db=10)
    report(store, start + timedelta(days=3), words=30, corrected=1, fallback=True, snr_db=30)
    report(store, start + timedelta(days=7), words=10)
    clock.advance(timedelta(days=8))
    rows = profile_rows(store)
    assert [row["device_profile"] for row in rows] == [PROFILE] * 3
    assert [row["profile_correction_rate"] for row in rows] == pytest.approx([0.5, 6 / 40, 1 / 40])
    assert [row["profile_fallback_rate"] for row in rows] == pytest.approx([0, 0.5, 0.5])
    assert [row["profile_mean_snr_db"] for row in rows] == pytest.approx([10, 20, 25])
    midnight = datetime(2026, 11, 3, tzinfo=UTC)
    assert [row["event_timestamp"] for row in rows] == [midnight + timedelta(days=n) for n in (0, 3, 7)]


def test_a_report_that_comes_late_changes_nothing_that_was_published(store: Store, clock: ManualClock) -> None:
    start = store.now()
    report(store, start, words=10, corrected=5)
    clock.advance(timedelta(days=3))
    before = profile_rows(store)
    report(store, start, words=10, corrected=0, received=store.now())
    clock.advance(timedelta(days=1))
    after = profile_rows(store)
    assert after[: len(before)] == before
    assert [row["profile_correction_rate"] for row in after] == pytest.approx([0.5, 0.25])


def test_captured_clips_inform_a_profile_before_any_telemetry(store: Store, clock: ManualClock) -> None:
    add_batch(store, "batch-20261102-001", ["a"])
    measure_day(store, DAY)
    assert profile_rows(store) == []
    clock.advance(timedelta(days=1))
    (row,) = profile_rows(store)
    assert row["device_profile"] == "phone_low|built_in|en-US"
    assert (row["profile_clips"], row["profile_dictations"], row["profile_correction_rate"]) == (2, 0, None)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(load_settings(tmp_path_factory.mktemp("home")), ManualClock(datetime(2026, 11, 30, tzinfo=UTC)))


reports = st.tuples(st.integers(0, 20), st.integers(0, 9), st.integers(0, 9), st.booleans())


@given(events=st.lists(reports, max_size=12))
def test_rates_stay_between_zero_and_one_and_nothing_is_known_in_the_future(
    shared_store: Store, events: list[tuple[int, int, int, bool]]
) -> None:
    with shared_store.database.write() as connection:
        connection.execute(telemetry.delete())
    for day, words, corrected, fallback in events:
        at = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=day)
        report(shared_store, at, words, min(words, corrected), fallback)
    rows = profile_rows(shared_store)
    assert len(rows) == len({day for day, *_ in events})  # all of them are over
    for row in rows:
        assert row["profile_correction_rate"] is None or 0 <= row["profile_correction_rate"] <= 1
        assert 0 <= row["profile_fallback_rate"] <= 1
        assert row["event_timestamp"] <= shared_store.now()
