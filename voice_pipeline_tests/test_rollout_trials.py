"""Simulated rollouts: reproducible one by one, true to the controller, and able to show an engine that errs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from voice_pipeline.release.analysis.harm import harm_tests
from voice_pipeline.release.analysis.measures import SILENCE
from voice_pipeline.release.analysis.observations import CANDIDATE, CONTROL, Dictation, by_device, correction_rate
from voice_pipeline.release.analysis.stage import Analysis, analyse
from voice_pipeline.rollout_trials import (
    CANDIDATE_MODEL,
    LIVE_MODEL,
    PATIENCE,
    Effect,
    End,
    Fleet,
    SpentLook,
    StageTelemetry,
    World,
    rollout,
)
from voice_pipeline.schema.policy_file import load_policy
from voice_pipeline.schema.release import EXPOSURE_PERCENT, Outcome, ReleaseState
from voice_pipeline.schema.release_policy import STAGES, ReleasePolicy
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.stats.sequential import HarmTest

SMALL = Fleet(devices=300)
CANARIES = STAGES[1:]


@pytest.fixture(scope="module")
def policy() -> ReleasePolicy:
    return load_policy(PROJECT_ROOT / "policy" / "release.yaml", ReleasePolicy)


def world_in(state: ReleaseState, effect: Effect, fleet: Fleet = SMALL, seed: int = 0) -> World:
    world = World(fleet, effect, np.random.default_rng(seed))
    world.begin(state, float(EXPOSURE_PERCENT.get(state, 20)), 1440)
    return world


def test_a_rollout_is_fixed_by_its_seed_and_number_alone(policy: ReleasePolicy) -> None:
    effect = Effect(correction=0.05)
    alone = rollout(policy, SMALL, effect, 1, 3)
    assert [rollout(policy, SMALL, effect, 1, number) for number in (2, 3)][1] == alone
    assert alone not in (rollout(policy, SMALL, effect, 2, 3), rollout(policy, SMALL, effect, 1, 2))


def test_exposure_follows_the_stage_and_devices_that_have_the_candidate_keep_it() -> None:
    world = World(SMALL, Effect(), np.random.default_rng(5))
    before: set[str] = set()
    for state in STAGES:
        percent = 20.0 if state is ReleaseState.SHADOW else float(EXPOSURE_PERCENT[state])
        world.begin(state, percent, 1440)
        for _ in range(8):
            world.tick()
        if state is ReleaseState.SHADOW:
            assert not world.exposed, "a shadow release answers nobody"
            continue
        data = world.telemetry().offered
        assert {d.device_id for d in data.arms[CANDIDATE]} <= world.exposed
        assert {d.model_version for d in data.arms[CANDIDATE]} == {CANDIDATE_MODEL}
        assert {d.model_version for d in data.arms[CONTROL]} == {LIVE_MODEL}
        assert before <= world.exposed
        assert len(world.exposed) / SMALL.devices == pytest.approx(percent / 100, abs=0.07)
        before = set(world.exposed)


def test_telemetry_grows_in_order_and_history_holds_nothing_of_the_candidate() -> None:
    world = world_in(ReleaseState.CANARY_50, Effect())
    sizes = []
    for _ in range(6):
        world.tick()
        data = world.telemetry().comparable
        for arm in (CANDIDATE, CONTROL):
            times = [d.at for d in data.arms[arm]]
            assert times == sorted(times)
            assert all(data.since < at <= data.now for at in times)
        assert all(d.at <= data.since and d.model_version == LIVE_MODEL for d in data.before.dictations)
        assert len(data.before.dictations) > SMALL.devices * SMALL.per_hour
        sizes.append(sum(map(len, data.arms.values())))
    assert sizes == sorted(set(sizes))


def test_history_ends_where_the_rollout_begins_however_far_it_has_come() -> None:
    world = world_in(ReleaseState.SHADOW, Effect())
    at_first = world.telemetry().comparable.before.dictations
    for state in CANARIES:
        world.tick()
        world.begin(state, float(EXPOSURE_PERCENT[state]), 1440)
        assert world.telemetry().comparable.before.dictations == at_first


def test_a_shadow_is_watched_on_all_answers_and_judged_on_those_with_a_twin() -> None:
    world = world_in(ReleaseState.SHADOW, Effect(refusing=0.5))
    world.tick()
    found = world.telemetry()
    watched, judged = found.offered.arms, found.comparable.arms
    assert judged[CONTROL] == watched[CONTROL]
    assert judged[CANDIDATE] == [one for one in watched[CANDIDATE] if one.shadow_model_version is not None]
    assert 0 < len(judged[CANDIDATE]) < len(watched[CANDIDATE])


@pytest.mark.parametrize(
    ("effect", "seen"),
    [
        (Effect(), {}),
        (Effect(correction=0.05), {"correction": 0.05}),
        (Effect(crash=5.0), {"crashed": 0.04}),
        (Effect(fallback=0.1), {"fallback": 0.1}),
        (Effect(abandonment=0.1), {"abandoned": 0.1}),
    ],
)
def test_an_effect_is_on_the_candidates_devices_and_as_large_as_said(effect: Effect, seen: dict[str, float]) -> None:
    world = world_in(ReleaseState.CANARY_50, effect, Fleet(devices=1000), seed=8)
    for _ in range(18):
        world.tick()
    arms = world.telemetry().offered.arms
    for name in ("correction", "crashed", "fallback", "abandoned"):
        rates = {}
        for arm, dictations in arms.items():
            told = (
                correction_rate(dictations) if name == "correction" else np.mean([getattr(d, name) for d in dictations])
            )
            rates[arm] = float(told)
        assert rates[CANDIDATE] - rates[CONTROL] == pytest.approx(seen.get(name, 0.0), abs=0.012)


def test_people_give_up_after_two_crashes_where_each_dictation_crashes() -> None:
    world = world_in(ReleaseState.CANARY_50, Effect(fatal=0.3), Fleet(devices=1000, crash=0.0), seed=8)
    for _ in range(18):
        world.tick()
    data = world.telemetry().offered
    crashes = Counter(d.device_id for d in data.arms[CANDIDATE] if d.crashed)
    assert not any(d.crashed for d in data.arms[CONTROL])
    assert set(crashes.values()) <= {1, PATIENCE}
    assert len(crashes) == pytest.approx(0.3 * len(data.expected[CANDIDATE]), rel=0.15)
    assert all(d.crashed for d in data.arms[CANDIDATE] if d.device_id in crashes)


def test_a_device_that_goes_back_is_heard_on_the_live_model_only() -> None:
    world = world_in(ReleaseState.CANARY_50, Effect(fatal=0.3, going_back=True), Fleet(devices=1000, crash=0.0), seed=8)
    for _ in range(18):
        world.tick()
    data = world.telemetry().offered
    crashes = Counter(d.device_id for d in data.arms[CANDIDATE] if d.crashed)
    back = {device for device, count in crashes.items() if count == PATIENCE}
    assert len(back) > 100
    assert set(crashes.values()) <= {1, PATIENCE}
    heard = data.heard[CANDIDATE]
    assert sum(len(heard[device]) > PATIENCE for device in back) > 0.9 * len(back)


def test_a_device_falls_silent_after_its_last_words_with_the_candidate() -> None:
    world = world_in(ReleaseState.CANARY_50, Effect(silent=0.3, last_words=3), Fleet(devices=1000), seed=8)
    for _ in range(24):
        world.tick()
    arms = world.telemetry().offered.arms
    few = {arm: np.mean([len(rows) <= 3 for rows in by_device(told).values()]) for arm, told in arms.items()}
    exactly = np.mean([len(rows) == 3 for rows in by_device(arms[CANDIDATE]).values()])
    assert few[CONTROL] < 0.02
    assert few[CANDIDATE] == pytest.approx(0.3, abs=0.06)
    assert exactly == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize("strain", [-1.0, 1.0])
def test_who_is_strained_fares_worse(strain: float) -> None:
    world = world_in(ReleaseState.CANARY_50, Effect(), Fleet(devices=2000, strain=strain), seed=8)
    for _ in range(12):
        world.tick()
    groups = sorted(by_device(world.telemetry().offered.arms[CONTROL]).values(), key=len)
    light, busy = ([d for group in half for d in group] for half in (groups[: len(groups) // 2], groups[-200:]))
    for of in (correction_rate, lambda rows: float(np.mean([d.fallback for d in rows]))):
        assert (of(light) < 0.8 * of(busy)) if strain > 0 else (of(busy) < 0.8 * of(light))


def test_harm_that_one_tick_sees_every_later_tick_of_the_stage_sees(policy: ReleasePolicy) -> None:
    """Why a trial may tick less often than the sensor: bounds only tighten, so no false alarm hides between ticks."""
    world = world_in(ReleaseState.CANARY_50, Effect(crash=20.0), seed=2)
    seen: list[dict[str, HarmTest]] = []
    for _ in range(24):
        world.tick()
        data = world.telemetry().offered
        seen.append(harm_tests(policy.guardrails, data, data.before.latency(80.0)))
    assert not seen[0]["crash"].harmful
    assert seen[-1]["crash"].harmful
    for earlier, later in pairwise(seen):
        for name in set(earlier) - {SILENCE}:  # its windows are fixed by the clock
            assert later[name].lower >= earlier[name].lower - 1e-6


@pytest.mark.parametrize("effect", [Effect(crash=30.0), Effect(correction=0.6), Effect(fallback=0.6)])
def test_a_grossly_harmful_model_is_rolled_back_before_a_twentieth_of_the_fleet_has_it_for_long(
    policy: ReleasePolicy, effect: Effect
) -> None:
    lenient = policy.model_copy(update={"stages": (_anything_passes(policy), *policy.stages[1:])})
    for number in range(4):
        trial = rollout(lenient, Fleet(), effect, 1, number)
        assert (trial.end, trial.stage) == (End.ROLLED_BACK, ReleaseState.CANARY_5)
        assert trial.stories[-1].exposed <= 0.08 * Fleet().devices
        assert trial.stories[-1].minutes <= 90


def _anything_passes(policy: ReleasePolicy):  # type: ignore[no-untyped-def]
    """A shadow stage that lets any correction rate through: the canary is what is tried."""
    return policy.stages[0].model_copy(update={"noninferiority_margin": 0.99})


def test_a_fleet_that_falls_silent_on_the_candidate_never_promotes_it(policy: ReleasePolicy) -> None:
    for number in range(3):
        trial = rollout(policy, SMALL, Effect(silent=1.0), 1, number)
        assert trial.end is not End.PRODUCTION
        assert trial.stage is ReleaseState.CANARY_5


def test_looks_are_spaced_and_never_more_than_the_policy_allows_and_then_the_rollout_is_held(
    policy: ReleasePolicy,
) -> None:
    made: list[tuple[ReleaseState, int]] = []

    def watching(
        rules: ReleasePolicy, state: ReleaseState, telemetry: StageTelemetry, looks: Sequence[SpentLook]
    ) -> Analysis:
        spacing = [(b.at - a.at).total_seconds() / 60 for a, b in pairwise(looks)]
        assert all(gap >= rules.stage(state).min_minutes for gap in spacing)
        made.append((state, len(looks)))
        return analyse(rules, state, telemetry, looks)

    trial = rollout(policy, SMALL, Effect(latency=2.0), 1, 0, judge=watching)
    assert trial.end is End.HELD
    assert trial.stories[-1].looks == policy.promotion.max_looks
    assert all(looks <= policy.promotion.max_looks for _, looks in made)
    assert trial.ticks == len(made)
    assert trial.minutes < 200, "held as soon as the looks are spent"


def test_a_stage_in_which_nothing_can_be_concluded_is_held_after_the_policys_time(policy: ReleasePolicy) -> None:
    rules = policy.model_copy(update={"telemetry": policy.telemetry.model_copy(update={"hold_after_minutes": 200})})

    def patient(
        policy: ReleasePolicy, state: ReleaseState, telemetry: StageTelemetry, looks: Sequence[SpentLook]
    ) -> Analysis:
        assert (telemetry.offered.now - telemetry.offered.since).total_seconds() / 60 < 270, "it waits for ever"
        return analyse(policy, state, telemetry, looks)

    trial = rollout(rules, SMALL, Effect(refusing=1.0), 1, 0, judge=patient)
    assert (trial.end, trial.stage) == (End.HELD, ReleaseState.SHADOW)
    assert trial.minutes > 200


def test_the_same_rollouts_judged_by_a_t_test_at_every_tick_roll_back_equal_models_right_and_left(
    policy: ReleasePolicy,
) -> None:
    """The trials can fail: what most would build at first errs far beyond 5 % in them; what is built does not."""
    rollouts = 15
    naive = [rollout(policy, SMALL, Effect(), 1, number, judge=t_tests_at_every_tick) for number in range(rollouts)]
    assert sum(trial.end is End.ROLLED_BACK for trial in naive) / rollouts > 0.3
    built = [rollout(policy, SMALL, Effect(), 1, number) for number in range(5)]
    assert not any(trial.end is End.ROLLED_BACK for trial in built)


def t_tests_at_every_tick(
    policy: ReleasePolicy, state: ReleaseState, telemetry: StageTelemetry, looks: object
) -> Analysis:
    """Rolls back when a one-sided t-test of any measure says p < 0.05; promotes after the stage's least time."""
    from scipy.stats import ttest_ind

    data = telemetry.comparable
    groups = [list(by_device(data.arms[arm]).values()) for arm in (CANDIDATE, CONTROL)]
    if state is not ReleaseState.SHADOW and min(map(len, groups)) > 5:
        for name in ("correction", "crashed", "abandoned", "fallback"):
            mine, theirs = ([rate_of(name, group) for group in arm] for arm in groups)
            if ttest_ind(mine, theirs, equal_var=False, alternative="greater").pvalue < 0.05:
                return Analysis(Outcome.FAIL, False, "p < 0.05", {})
    minutes = (data.now - data.since).total_seconds() / 60
    over = minutes >= policy.stage(state).min_minutes
    return Analysis(Outcome.PASS if over else Outcome.INCONCLUSIVE, over, "", {})


def rate_of(name: str, dictations: Sequence[Dictation]) -> float:
    if name == "correction":
        return correction_rate(dictations)
    return float(np.mean([getattr(dictation, name) for dictation in dictations]))
