"""Scheduling: every day is reported on, in coarse steps, never endlessly."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.monitoring.schedule import due_days, find_due, level
from voice_pipeline.monitoring.windows import build_windows
from voice_pipeline.schema.monitoring_policy import TelemetryPolicy, load_monitoring_policy
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline_tests.monitoring.world import report, speech

POLICY = TelemetryPolicy(min_events=200, growth=0.25, step_events=1500, lookback_days=3)
TODAY = date(2026, 11, 2)
DAY = TODAY.isoformat()


def test_the_first_report_comes_with_enough_events() -> None:
    assert not find_due(POLICY, {DAY: 199}, {}, TODAY)
    assert [item.day for item in find_due(POLICY, {DAY: 200}, {}, TODAY)] == [DAY]


def test_a_quarter_more_or_a_step_more_asks_again() -> None:
    assert not find_due(POLICY, {DAY: 240}, {DAY: 200}, TODAY)
    assert find_due(POLICY, {DAY: 250}, {DAY: 200}, TODAY)
    assert find_due(POLICY, {DAY: 101_600}, {DAY: 100_000}, TODAY)


@given(st.lists(st.integers(0, 400), max_size=60))
def test_growth_in_small_steps_asks_rarely_and_each_time_under_another_key(steps: list[int]) -> None:
    events, seen, keys = 0, 0, []
    for step in steps:
        events += step
        for item in find_due(POLICY, {DAY: events}, {DAY: seen}, TODAY):
            keys.append(item.run_key)
            seen = events
    assert len(keys) == len(set(keys))
    assert len(keys) <= level(POLICY, events) + 1


@given(st.integers(0, 20_000), st.integers(0, 20_000))
def test_a_repeated_tick_while_the_run_is_under_way_asks_under_the_same_key(events: int, seen: int) -> None:
    first = find_due(POLICY, {DAY: events}, {DAY: seen}, TODAY)
    assert find_due(POLICY, {DAY: events}, {DAY: seen}, TODAY) == first


def test_a_day_that_is_over_is_reported_on_to_its_last_event() -> None:
    tomorrow = TODAY + timedelta(days=1)
    (item,) = find_due(POLICY, {DAY: 210}, {DAY: 200}, tomorrow)
    assert "over" in item.reason
    assert not find_due(POLICY, {DAY: 210}, {DAY: 210}, tomorrow)
    assert find_due(POLICY, {DAY: 5}, {}, tomorrow), "a quiet day is reported on too"


def test_a_day_stays_due_until_all_its_reports_have_seen_it(store: Store, clock: ManualClock) -> None:
    import numpy as np

    policy = load_monitoring_policy(PROJECT_ROOT / "policy").telemetry
    day = report(store, speech(np.random.default_rng(0), 300))
    build_windows(store, day)
    assert [item.day for item in due_days(store, policy)] == [day]
    clock.advance(timedelta(days=policy.lookback_days + 1))
    assert not due_days(store, policy)
