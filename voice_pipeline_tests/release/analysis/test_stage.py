"""What a stage's telemetry says, at the edges: silence that comes late, rare events, looks that cost error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from voice_pipeline.release.analysis.harm import error_of_a_test, harm_tests, share_of_window
from voice_pipeline.release.analysis.measures import MEASURES
from voice_pipeline.release.analysis.observations import (
    CANDIDATE,
    CONTROL,
    Dictation,
    History,
    StageData,
    StageTelemetry,
)
from voice_pipeline.release.analysis.promotion import TESTS, all_spent, look_at, may_look
from voice_pipeline.release.analysis.stage import analyse, watch
from voice_pipeline.schema.policy_file import load_policy
from voice_pipeline.schema.release import Outcome
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import FILE_NAME, STAGES, ReleasePolicy
from voice_pipeline.settings import PROJECT_ROOT

START = datetime(2026, 11, 2, 9, tzinfo=UTC)
POLICY = load_policy(PROJECT_ROOT / "policy" / FILE_NAME, ReleasePolicy)


@dataclass(frozen=True)
class Taken:
    """A look that was made."""

    at: datetime
    figures: Mapping[str, Any]


def dictation(device: str, minute: float, **figures: Any) -> Dictation:
    at = START + timedelta(minutes=minute)
    return Dictation(
        **{
            "at": at,
            "received": at,
            "device_id": device,
            "device_class": "phone_mid",
            "app_version": "1.5.0",
            "model_version": "m",
            "words": 10,
            "corrected_words": 2,
            "latency_ms": 20.0,
            "duration_s": 2.0,
            "crashed": False,
            "abandoned": False,
            "fallback": False,
            **figures,
        }
    )


def devices(arm: str, count: int) -> list[str]:
    return [f"{arm}-{number:03d}" for number in range(count)]


def stage(candidate: Iterable[Dictation], control: Iterable[Dictation], minutes: float, share: float) -> StageTelemetry:
    """A stage of that length. Who speaks in it was active before it."""
    arms = {arm: sorted(rows, key=lambda d: d.at) for arm, rows in ((CANDIDATE, candidate), (CONTROL, control))}
    heard: dict[str, dict[str, list[datetime]]] = {CANDIDATE: {}, CONTROL: {}}
    for arm, rows in arms.items():
        for one in rows:
            heard[arm].setdefault(one.device_id, []).append(one.at)
    expected = {arm: sorted(known) for arm, known in heard.items()}
    before = [dictation(device, -60 - n) for known in expected.values() for n, device in enumerate(known)]
    data = StageData(START, START + timedelta(minutes=minutes), arms, History(before), expected, heard, share)
    return StageTelemetry(data, data)


def talk(arm: str, count: int, each: int, minutes: float, seed: int = 0, **figures: Any) -> list[Dictation]:
    """Each of `count` devices dictates `each` times, evenly over the stage; corrections vary about 2 of 10 words."""
    rng = np.random.default_rng([seed, arm == CANDIDATE])
    return [
        dictation(device, minutes * (k + 1) / each, **{"corrected_words": int(rng.binomial(10, 0.2)), **figures})
        for device in devices(arm, count)
        for k in range(each)
    ]


def shares(rows: list[Dictation], every: int, **figures: Any) -> list[Dictation]:
    """Every so many-th dictation is otherwise."""
    return [replace(row, **figures) if n % every == 0 else row for n, row in enumerate(rows)]


def test_an_equal_model_with_enough_telemetry_passes_its_first_look() -> None:
    found = analyse(
        POLICY,
        S.CANARY_50,
        stage(talk(CANDIDATE, 150, 12, 125), talk(CONTROL, 150, 12, 125), 125, 0.5),
        [],
    )
    assert (found.outcome, found.look) == (Outcome.PASS, True), found.reason
    assert set(found.figures[TESTS]) == set(MEASURES)


def talk_until(minute: float, arm: str, count: int, quiet: int) -> list[Dictation]:
    """As `talk`, but the last `quiet` of the devices say nothing after that minute."""
    silent = set(devices(arm, count)[count - quiet :])
    until = START + timedelta(minutes=minute)
    return [row for row in talk(arm, count, 30, 150) if row.device_id not in silent or row.at <= until]


@pytest.mark.parametrize(("state", "outcome"), [(S.CANARY_50, Outcome.INCONCLUSIVE), (S.CANARY_5, Outcome.PASS)])
def test_devices_that_fell_silent_are_no_pass_where_the_stage_has_a_margin_for_it(state: S, outcome: Outcome) -> None:
    """18 of 100: certain harm is beyond 20, and shown to be less it is not."""
    telemetry = stage(talk_until(20, CANDIDATE, 100, 18), talk_until(20, CONTROL, 100, 0), 150, 0.5)
    found = analyse(POLICY, state, telemetry, [])
    assert (found.outcome, found.look) == (outcome, True), found.reason
    assert ("silence +18.0%" in found.reason) is (outcome is Outcome.INCONCLUSIVE)


def test_silence_alike_in_both_arms_and_of_a_few_passes() -> None:
    telemetry = stage(talk_until(20, CANDIDATE, 150, 12), talk_until(20, CONTROL, 150, 12), 150, 0.5)
    found = analyse(POLICY, S.CANARY_50, telemetry, [])
    assert found.outcome is Outcome.PASS, found.reason
    assert found.figures[TESTS]["silence"]["difference"] == 0.0


def test_a_device_that_spoke_within_the_time_of_silence_is_not_silent() -> None:
    telemetry = stage(talk_until(100, CANDIDATE, 150, 30), talk_until(100, CONTROL, 150, 0), 150, 0.5)
    assert analyse(POLICY, S.CANARY_50, telemetry, []).figures[TESTS]["silence"]["difference"] == 0.0


def test_two_points_worse_are_not_passed_by_the_last_stage() -> None:
    worse = talk(CANDIDATE, 150, 12, 125)
    worse = [replace(row, corrected_words=min(10, row.corrected_words + (n % 5 == 0))) for n, row in enumerate(worse)]
    found = analyse(POLICY, S.CANARY_50, stage(worse, talk(CONTROL, 150, 12, 125), 125, 0.5), [])
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "correction rate" in found.reason


@pytest.mark.parametrize("figures", [{"crashed": True}, {"abandoned": True}, {"fallback": True}, {"latency_ms": 90.0}])
def test_a_guardrail_that_is_not_shown_to_hold_stops_a_model_that_recognises_well(figures: dict[str, Any]) -> None:
    """The share is far from certain harm, and as far from shown to be harmless."""
    every = 25 if "crashed" in figures else 14
    candidate = shares(talk(CANDIDATE, 15, 24, 35), every, **figures)
    telemetry = stage(candidate, talk(CONTROL, 285, 24, 35), 35, 0.05)
    assert watch(POLICY, S.CANARY_5, telemetry).outcome is Outcome.INCONCLUSIVE
    assert analyse(POLICY, S.CANARY_5, telemetry, []).outcome is Outcome.INCONCLUSIVE


def test_a_sample_too_small_to_show_that_nothing_crashes_does_not_pass() -> None:
    """No crash at all in 60 dictations: a plain interval of no width would pass."""
    small = POLICY.model_copy(
        update={"stages": tuple(s.model_copy(update={"min_events": 10, "min_devices": 2}) for s in POLICY.stages)}
    )
    telemetry = stage(talk(CANDIDATE, 15, 4, 35), talk(CONTROL, 285, 4, 35), 35, 0.05)
    found = analyse(small, S.CANARY_5, telemetry, [])
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "crash" in found.reason


def test_several_harms_below_their_margins_are_one_above_the_common_one() -> None:
    every = {"crashed": 80, "abandoned": 30, "fallback": 30}
    rows = talk(CANDIDATE, 150, 20, 125)
    for offset, (name, n) in enumerate(every.items()):
        rows = [replace(row, **{name: True}) if (k + 7 * offset) % n == 0 else row for k, row in enumerate(rows)]
    found = analyse(POLICY, S.CANARY_50, stage(rows, talk(CONTROL, 150, 20, 125), 125, 0.5), [])
    tests = found.figures[TESTS]
    assert all(tests[name]["passes"] for name in ("crash", "abandonment", "fallback"))
    assert not tests["failure"]["passes"]
    assert found.outcome is not Outcome.PASS


def late_silence(silent_from: float, minutes: float) -> StageTelemetry:
    """Both arms speak every quarter of an hour; the candidate's devices stop at `silent_from`."""
    rows = {arm: talk(arm, 150, int(minutes / 15), minutes) for arm in (CANDIDATE, CONTROL)}
    limit = START + timedelta(minutes=silent_from)
    return stage([row for row in rows[CANDIDATE] if row.at <= limit], rows[CONTROL], minutes, 0.5)


@pytest.mark.parametrize("silent_from", [61.0, 130.0, 250.0])
def test_devices_that_fall_silent_late_are_harm(silent_from: float) -> None:
    """Once, a device that was heard a single time in the stage counted as heard for ever."""
    telemetry = late_silence(silent_from, silent_from + 120)
    found = watch(POLICY, S.CANARY_50, telemetry)
    assert found.outcome is Outcome.FAIL
    assert found.reason.startswith("harm: silence")


def test_who_was_never_heard_of_before_counts_once_it_has_spoken() -> None:
    telemetry = late_silence(61.0, 240.0)
    newcomers = replace(telemetry.offered, expected={CANDIDATE: [], CONTROL: []})
    assert harm_tests(POLICY.guardrails, newcomers, newcomers.before.latency(80))["silence"].harmful


def test_silence_of_both_arms_is_no_harm_and_no_pass() -> None:
    """The way to us is broken, not the model."""
    rows = {arm: talk(arm, 150, 32, 240) for arm in (CANDIDATE, CONTROL)}
    limit = START + timedelta(minutes=60)
    some = {arm: [r for r in kept if r.at <= limit or r.device_id.endswith("7")] for arm, kept in rows.items()}
    telemetry = stage(some[CANDIDATE], some[CONTROL], 240, 0.5)
    found = analyse(POLICY, S.CANARY_50, telemetry, [])
    assert found.outcome is Outcome.INVALID
    assert "active before" in found.reason


def test_a_candidate_whose_telemetry_falls_away_is_not_passed() -> None:
    rows = {arm: talk(arm, 150, 24, 360) for arm in (CANDIDATE, CONTROL)}
    limit = START + timedelta(minutes=200)
    fewer = [r for r in rows[CANDIDATE] if r.at <= limit or int(r.device_id[-1]) < 7]
    found = analyse(POLICY, S.CANARY_50, stage(fewer, rows[CONTROL], 360, 0.5), [])
    assert found.outcome in {Outcome.INVALID, Outcome.FAIL}


def test_a_shadow_that_crashes_the_app_of_the_live_model_is_harm() -> None:
    twin = {"shadow_model_version": "c", "shadow_corrected_words": 1, "shadow_latency_ms": 20.0}
    candidate = shares(talk(CANDIDATE, 60, 6, 35, **twin), 4, crashed=True)
    found = watch(POLICY, S.SHADOW, stage(candidate, talk(CONTROL, 240, 6, 35), 35, 0.2))
    assert found.outcome is Outcome.FAIL
    assert "crash" in found.reason


def test_the_error_budget_is_shared_by_all_tests_of_a_rollout() -> None:
    watched = error_of_a_test(POLICY.guardrails) * len(STAGES) * len(MEASURES)
    data = stage(talk(CANDIDATE, 150, 12, 35), talk(CONTROL, 150, 12, 35), 35, 0.5).comparable
    looks: list[Taken] = []
    for _ in range(POLICY.promotion.max_looks):
        tests = look_at(POLICY, POLICY.stage(S.CANARY_50), data, looks)
        looks.append(Taken(START, {TESTS: {name: {"information": test.information} for name, test in tests.items()}}))
    at_looks = sum(test.harm_level for test in tests.values()) * len(STAGES)
    assert watched == pytest.approx(POLICY.guardrails.alpha / 2)
    assert at_looks <= POLICY.guardrails.alpha / 2


def test_the_windows_of_silence_have_one_budget_together() -> None:
    assert sum(share_of_window(k) for k in range(1, 100_000)) <= 1
    assert sum(share_of_window(k) for k in range(1, 100_000)) > 0.999


@pytest.mark.parametrize(("window", "harmful"), [(1, True), (10, False)])
def test_a_late_window_of_silence_must_show_more(window: int, harmful: bool) -> None:
    """Eleven of twelve silent devices are harm in the first hour, and less than that in the tenth."""
    heard: dict[str, dict[str, list[datetime]]] = {CANDIDATE: {}, CONTROL: {}}
    for arm in heard:
        for n, device in enumerate(f"{number:03d}-{arm}" for number in range(12)):
            minutes = [60 * k + 30 for k in range(window) if k + 1 < window or arm == CONTROL or n >= 11]
            heard[arm][device] = [START + timedelta(minutes=minute) for minute in minutes or [0]]
    expected = {arm: list(known) for arm, known in heard.items()}
    arms: dict[str, list[Dictation]] = {CANDIDATE: [], CONTROL: []}
    now = START + timedelta(minutes=60 * window)
    data = StageData(START, now, arms, History([]), expected, heard, 0.5)
    assert harm_tests(POLICY.guardrails, data, data.before.latency(80))["silence"].harmful is harmful


def test_looks_are_spaced_and_counted() -> None:
    rules = POLICY.stage(S.CANARY_5)
    looks = [Taken(START, {})]
    early, due = START + timedelta(minutes=rules.min_minutes - 1), START + timedelta(minutes=rules.min_minutes)
    assert may_look(POLICY, rules, [], START)
    assert not may_look(POLICY, rules, looks, early)
    assert may_look(POLICY, rules, looks, due)
    spent = looks * POLICY.promotion.max_looks
    assert all_spent(POLICY, spent)
    assert not may_look(POLICY, rules, spent, due)


def test_no_look_is_made_before_it_is_due() -> None:
    telemetry = stage(talk(CANDIDATE, 150, 12, 35), talk(CONTROL, 150, 12, 35), 35, 0.5)
    found = analyse(POLICY, S.CANARY_50, telemetry, [Taken(START + timedelta(minutes=20), {})])
    assert (found.look, found.outcome) == (False, Outcome.INCONCLUSIVE)


def test_a_later_look_has_a_level_of_its_own_and_an_untold_one_costs_no_error() -> None:
    data = stage(talk(CANDIDATE, 150, 12, 35), talk(CONTROL, 150, 12, 35), 35, 0.5).comparable
    rules = POLICY.stage(S.CANARY_50)
    first = look_at(POLICY, rules, data, [])["correction_rate"]
    half = {TESTS: {"correction_rate": {"information": first.information / 2}}}
    second = look_at(POLICY, rules, data, [Taken(START, half)])["correction_rate"]
    untold = look_at(POLICY, rules, data, [Taken(START, {"noninferiority": {"difference": 0.1}})])["correction_rate"]
    assert first.level < POLICY.promotion.alpha
    assert second.level < POLICY.promotion.alpha
    assert untold.level < second.level


def test_a_resumed_stage_has_half_the_error_of_the_time_before() -> None:
    data = stage(talk(CANDIDATE, 150, 12, 35), talk(CONTROL, 150, 12, 35), 35, 0.5).comparable
    levels = [
        look_at(POLICY, POLICY.stage(S.CANARY_50), data, [], resumed)["correction_rate"].level for resumed in range(5)
    ]
    assert all(b == pytest.approx(a / 2, rel=1e-3) for a, b in pairwise(levels))


def test_a_look_that_knew_more_than_is_known_now_makes_no_level_looser() -> None:
    """Figures without any spread seem to know everything; the next look is not its twin for that."""
    data = stage(talk(CANDIDATE, 150, 12, 35), talk(CONTROL, 150, 12, 35), 35, 0.5).comparable
    rules = POLICY.stage(S.CANARY_50)
    levels = {}
    for known in (1.0, 1e12):
        looks = [Taken(START, {TESTS: {"correction_rate": {"information": known}}})]
        levels[known] = look_at(POLICY, rules, data, looks)["correction_rate"].level
    assert levels[1e12] == pytest.approx(levels[1.0], rel=1e-2)
