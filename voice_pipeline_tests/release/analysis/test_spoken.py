"""Who counts in a harm test, and when: an order that no later news changes, in which nobody is lost for leaving."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.release.analysis.harm import harm_tests
from voice_pipeline.release.analysis.observations import (
    CANDIDATE,
    CONTROL,
    Dictation,
    History,
    Spoken,
    StageData,
    spoken,
)
from voice_pipeline_tests.release.analysis.test_stage import POLICY, START, devices, dictation, stage, talk

FIRST, QUIET = 4, timedelta(minutes=60)


def data(arms: dict[str, list[Dictation]], minute: float) -> StageData:
    """A stage as it is known at that minute."""
    now = START + timedelta(minutes=minute)
    known = {arm: [row for row in rows if row.received <= now] for arm, rows in arms.items()}
    return StageData(START, now, known, History([]), {CANDIDATE: [], CONTROL: []}, {CANDIDATE: {}, CONTROL: {}}, 0.5)


def names(known: list[Spoken]) -> list[tuple[str, int]]:
    return [(one.device_id, len(one.dictations)) for one in known]


def minutes_of(at: datetime) -> float:
    return (at - START).total_seconds() / 60


def test_a_device_speaks_with_its_first_dictations_or_once_it_has_been_quiet() -> None:
    rows = [dictation(name, minute) for name, minute in (("gone", 1), ("busy", 2), ("gone", 3))]
    rows += [dictation("busy", minute) for minute in (4, 6, 8, 10)]
    rows += [dictation("back", minute) for minute in (5, 66, 67, 68, 69)]
    arms = {CANDIDATE: rows, CONTROL: []}
    assert names(spoken(data(arms, 7), FIRST, QUIET)) == []
    assert names(spoken(data(arms, 8), FIRST, QUIET)) == [("busy", 4)]
    assert names(spoken(data(arms, 62), FIRST, QUIET)) == [("busy", 4)]
    assert names(spoken(data(arms, 63), FIRST, QUIET)) == [("busy", 4), ("gone", 2)]
    assert names(spoken(data(arms, 300), FIRST, QUIET)) == [("busy", 4), ("gone", 2), ("back", 1)]
    assert [minutes_of(one.known_at) for one in spoken(data(arms, 300), FIRST, QUIET)] == [8, 63, 65]


def test_what_counts_is_when_a_dictation_reached_us() -> None:
    late = [dictation("late", 1, received=START + timedelta(minutes=30 + n)) for n in range(4)]
    soon = [dictation("soon", 20 + n) for n in range(4)]
    known = spoken(data({CANDIDATE: soon, CONTROL: late}, 40), FIRST, QUIET)
    assert [(one.device_id, one.arm) for one in known] == [("soon", CANDIDATE), ("late", CONTROL)]
    kept = [dictation("kept", minute, received=START + timedelta(minutes=300)) for minute in (1, 100, 200, 290)]
    assert names(spoken(data({CANDIDATE: kept, CONTROL: []}, 300), FIRST, QUIET)) == [("kept", 4)]


spoken_at = st.lists(
    st.tuples(st.sampled_from([CANDIDATE, CONTROL]), st.integers(0, 5), st.integers(1, 400)), max_size=60
)


@given(spoken_at, st.lists(st.integers(1, 500), min_size=2, max_size=6))
@settings(max_examples=200, deadline=None)
def test_later_news_adds_to_the_order_and_changes_nothing_in_it(
    told: list[tuple[str, int, int]], looked: list[int]
) -> None:
    arms: dict[str, list[Dictation]] = {CANDIDATE: [], CONTROL: []}
    for arm, number, minute in sorted(told, key=lambda one: one[2]):
        arms[arm].append(dictation(f"{arm}-{number}", minute))
    before: list[Spoken] = []
    for minute in sorted(looked):
        known = spoken(data(arms, minute), FIRST, QUIET)
        assert known[: len(before)] == before
        before = known
    everybody = {(arm, f"{arm}-{number}") for arm, number, _ in told}
    assert {(one.arm, one.device_id) for one in spoken(data(arms, 10_000), FIRST, QUIET)} == everybody


def test_people_whom_a_model_drives_away_at_once_are_harm() -> None:
    """Three in ten devices crash twice and are not heard again: fewer dictations than a device needs to be known."""
    lost = devices(CANDIDATE, 30)
    rows = {arm: [row for row in talk(arm, 100, 12, 120) if row.device_id not in lost] for arm in (CANDIDATE, CONTROL)}
    crashes = [dictation(device, minute, crashed=True) for device in lost for minute in (5, 9)]
    for minutes, seen in ((60, False), (120, True)):
        until = START + timedelta(minutes=minutes)
        known = {CANDIDATE: [*rows[CANDIDATE], *crashes], CONTROL: rows[CONTROL]}
        told = {arm: [row for row in rows if row.at <= until] for arm, rows in known.items()}
        found = stage(told[CANDIDATE], told[CONTROL], minutes, 0.5).offered
        assert harm_tests(POLICY.guardrails, found, found.before.latency(80))["crash"].harmful is seen


def test_who_comes_late_and_fares_worse_in_both_arms_is_no_harm() -> None:
    """One bound an arm took the candidate's late devices for worse than the control's early ones."""
    rows: dict[str, list[Dictation]] = {CANDIDATE: [], CONTROL: []}
    for arm, of in ((CANDIDATE, 20), (CONTROL, 380)):
        for n, device in enumerate(devices(arm, of)):
            late = n / of
            rows[arm] += [
                replace(dictation(device, 10 + 300 * late + k), corrected_words=round(8 * late)) for k in range(4)
            ]
    for minutes in (60, 120, 200, 320):
        until = START + timedelta(minutes=minutes)
        told = {arm: [row for row in known if row.at <= until] for arm, known in rows.items()}
        found = stage(told[CANDIDATE], told[CONTROL], minutes, 0.05).offered
        assert not harm_tests(POLICY.guardrails, found, found.before.latency(80))["correction_rate"].harmful
