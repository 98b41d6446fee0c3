"""Simulated rollouts: the engine's own analysis, tick after tick, on a fleet whose truth is known.

Promise: what decides here is `release.analysis.stage.analyse` under the real policy, with the bookkeeping of
`release.controller`: FAIL rolls back at once, a look that was made is spent, PASS leads to the next stage, spent looks
hold, and so does a stage in which nothing is concluded for too long. Only what surrounds it is made up: devices,
dictations and time. Rollout `index` of a seed is the same rollout on its own as among a thousand.

The fleet is stated in `Fleet`, what the candidate does to it in `Effect`. Nothing is stored and nothing is signed: the
database, the ledger and the gates have tests of their own.

The sensor ticks every 30 seconds; a trial every `Fleet.tick_minutes`, later in a stage every sixth of its age or hour.
Bounds on harm only ever tighten within a stage, so harm that any tick in between would have seen is seen at the next
one here: fewer ticks delay a rollback and hide none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.release.analysis.observations import (
    CANDIDATE,
    CONTROL,
    Dictation,
    History,
    StageData,
    StageTelemetry,
)
from voice_pipeline.release.analysis.promotion import all_spent
from voice_pipeline.release.analysis.stage import Analysis, analyse
from voice_pipeline.release.machine import NEXT_STAGE
from voice_pipeline.schema.release import EXPOSURE_PERCENT, Outcome, ReleaseState
from voice_pipeline.schema.release_policy import ReleasePolicy

LIVE_MODEL, CANDIDATE_MODEL = "m-live", "m-candidate"
APP_VERSION = "1.0.0"
PATIENCE = 2
_HISTORY_STEP = 60.0
START = datetime(2026, 1, 5, 8, tzinfo=UTC)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Fleet:
    """The devices of a rollout, and what they do with the live model.

    Attributes:
        per_hour: dictations of a device an hour, mean; devices differ (gamma, shape `busyness`).
        words: mean words of a dictation, at least one (1 + Poisson).
        correction, correction_spread: share of words that people change: mean and standard deviation over devices
            (beta); one dictation is harder than another by a lognormal factor of sigma `difficulty`.
        crash, abandonment, fallback: share of dictations; a device's own share varies about it (gamma, shape 4).
        strain: how those shares and `correction` hang together with use: in proportion to a device's own use over the
            mean, to this power. At 0 not at all; below 0 light users fare worse, above it busy ones.
        latency_ms: median for two seconds of speech, one figure a device class (classes are equally common); others
            in proportion, times a lognormal factor of sigma `device_sigma` a device and `latency_sigma` a dictation.
        history_hours: how long devices are heard on the live model before the shadow stage.
        poll_minutes: a device takes its new model between 0 and this many minutes after a stage begins.
        tick_minutes: least time between two ticks of the controller.
    """

    devices: int = 1000
    per_hour: float = 6.0
    busyness: float = 3.0
    words: float = 10.0
    correction: float = 0.12
    correction_spread: float = 0.05
    difficulty: float = 0.5
    crash: float = 0.01
    abandonment: float = 0.02
    fallback: float = 0.02
    strain: float = 0.0
    latency_ms: tuple[float, ...] = (12.0, 20.0, 35.0, 60.0)
    device_sigma: float = 0.15
    latency_sigma: float = 0.25
    history_hours: float = 4.0
    poll_minutes: float = 5.0
    tick_minutes: float = 5.0


@dataclass(frozen=True)
class Effect:
    """What the candidate changes; as it stands, nothing (A/A).

    Attributes:
        correction, abandonment, fallback: added to the share, absolute.
        crash, latency: factors.
        silent: share of devices that are never heard again after `last_words` dictations with it.
        refusing: share of its devices that never take it, and go on with the live model.
        fatal: share of devices on which it crashes each time; after `PATIENCE` times these take it no more.
        going_back: such a device goes on with the live model; else its people give up for good.
    """

    correction: float = 0.0
    abandonment: float = 0.0
    fallback: float = 0.0
    crash: float = 1.0
    latency: float = 1.0
    silent: float = 0.0
    last_words: int = 0
    refusing: float = 0.0
    fatal: float = 0.0
    going_back: bool = False


class End(StrEnum):
    """How a rollout ends; a held one waits for a person, so its trial is over."""

    PRODUCTION = "production"
    ROLLED_BACK = "rolled_back"
    HELD = "held"


@dataclass(frozen=True)
class SpentLook:
    """A promotion test that was made: what `analyse` reads of the looks before it."""

    at: datetime
    figures: dict[str, Any]


@dataclass(frozen=True)
class StageStory:
    """One stage: simulated minutes in it, ticks and looks made, devices that ever ran the candidate as their model."""

    state: ReleaseState
    minutes: float
    ticks: int
    looks: int
    exposed: int


@dataclass(frozen=True)
class Trial:
    """One rollout: its end, the last stage it was in, the reason of the last analysis, and every stage's story."""

    end: End
    stage: ReleaseState
    reason: str
    stories: tuple[StageStory, ...]

    @property
    def minutes(self) -> float:
        return sum(story.minutes for story in self.stories)

    @property
    def ticks(self) -> int:
        return sum(story.ticks for story in self.stories)


Judge = Callable[[ReleasePolicy, ReleaseState, StageTelemetry, Sequence[SpentLook]], Analysis]


def rollout(
    policy: ReleasePolicy, fleet: Fleet, effect: Effect, seed: int, index: int, judge: Judge = analyse
) -> Trial:
    """Take one candidate from shadow as far as `judge` lets it go.

    Args:
        seed, index: two whole numbers that fix everything random.
        judge: what analyses a tick; another one shows what the policy is spared.
    """
    world = World(fleet, effect, np.random.default_rng([seed, index]))
    stories: list[StageStory] = []
    state = ReleaseState.SHADOW
    while True:
        end, analysis, story = _stage(policy, world, state, judge)
        stories.append(story)
        following = NEXT_STAGE[state]
        if end is not None or following is ReleaseState.PRODUCTION:
            return Trial(end or End.PRODUCTION, state, analysis.reason, tuple(stories))
        state = following


def _stage(
    policy: ReleasePolicy, world: World, state: ReleaseState, judge: Judge
) -> tuple[End | None, Analysis, StageStory]:
    """Tick until the stage is over; no end = promoted."""
    percent = policy.shadow.device_percent if state is ReleaseState.SHADOW else float(EXPOSURE_PERCENT[state])
    world.begin(state, percent, policy.telemetry.active_minutes)
    looks: list[SpentLook] = []
    ticks = 0
    while True:
        world.tick()
        ticks += 1
        analysis = judge(policy, state, world.telemetry(), looks)
        end, over = _step(policy, analysis, looks, world)
        if over:
            return end, analysis, StageStory(state, world.minutes, ticks, len(looks), len(world.exposed))


def _step(policy: ReleasePolicy, analysis: Analysis, looks: list[SpentLook], world: World) -> tuple[End | None, bool]:
    """What the controller does on an analysis: (how the rollout ends here, whether the stage is over)."""
    if analysis.look:
        looks.append(SpentLook(world.now, analysis.figures))
    if analysis.outcome is Outcome.FAIL:
        return End.ROLLED_BACK, True
    if analysis.outcome is Outcome.PASS:
        return None, True
    idle = world.now - max([world.since, *(look.at for look in looks)])
    unconcluded = idle > timedelta(minutes=policy.telemetry.hold_after_minutes)
    return (End.HELD, True) if all_spent(policy, looks) or unconcluded else (None, False)


class World:
    """A fleet in time. `begin` a stage, `tick`, and read its `telemetry`."""

    def __init__(self, fleet: Fleet, effect: Effect, rng: np.random.Generator) -> None:
        self.fleet, self._effect, self._rng = fleet, effect, rng
        self._devices = _Devices.draw(fleet, effect, rng)
        self._said: list[Dictation] = []
        self._clock = 0.0
        self._since = 0.0
        self._state: ReleaseState | None = None
        self._takes = np.full(fleet.devices, np.inf)
        self._percent = 0.0
        self._crashes, self._last_words = np.zeros((2, fleet.devices), dtype=int)
        self.exposed: set[str] = set()
        for _ in range(round(60 * fleet.history_hours / _HISTORY_STEP)):
            self._said += self._speak(_HISTORY_STEP)

    @property
    def now(self) -> datetime:
        return START + timedelta(minutes=self._clock)

    @property
    def since(self) -> datetime:
        """When the stage began."""
        return START + timedelta(minutes=self._since)

    @property
    def minutes(self) -> float:
        """Simulated minutes since the stage began."""
        return self._clock - self._since

    def begin(self, state: ReleaseState, percent: float, active_minutes: float) -> None:
        """A stage begins now: devices of the candidate's arm take it at their next poll, those that have it keep it."""
        first, self._state, self._percent, self._since = self._state is None, state, percent, self._clock
        in_arm = self._devices.bucket < percent
        polls = self._clock + self._rng.uniform(0, self.fleet.poll_minutes, self.fleet.devices)
        if state is ReleaseState.CANARY_5:
            self._takes[:] = np.inf  # the silent twin of the shadow stage is no model of theirs
        self._takes = np.where(in_arm & ~self._devices.refuses, np.minimum(self._takes, polls), np.inf)
        oldest = self.now - timedelta(minutes=active_minutes)
        recent = [d for d in self._said if d.at > oldest]
        active = {d.device_id for d in recent}
        self._expected: dict[str, list[str]] = {CANDIDATE: [], CONTROL: []}
        for device, chosen in zip(self._devices.names, in_arm.tolist(), strict=True):
            if device in active:
                self._expected[CANDIDATE if chosen else CONTROL].append(device)
        if first:
            self._before = History(recent)
        self._arms: dict[str, list[Dictation]] = {CANDIDATE: [], CONTROL: []}
        self._beside: list[Dictation] = []
        self._heard: dict[str, dict[str, list[datetime]]] = {CANDIDATE: {}, CONTROL: {}}
        self._chosen = {device for device, chosen in zip(self._devices.names, in_arm.tolist(), strict=True) if chosen}

    def tick(self) -> None:
        """Time goes on until the next tick; what was dictated since the last one has arrived."""
        shadow = self._state is ReleaseState.SHADOW
        for dictation in self._speak(max(self.fleet.tick_minutes, min(self.minutes / 6, 60.0))):
            self._said.append(dictation)
            candidates = dictation.device_id in self._chosen
            arm = CANDIDATE if candidates else CONTROL
            self._heard[arm].setdefault(dictation.device_id, []).append(dictation.at)
            if dictation.model_version == CANDIDATE_MODEL:
                self.exposed.add(dictation.device_id)
            if shadow or candidates == (dictation.model_version == CANDIDATE_MODEL):
                self._arms[arm].append(dictation)
            if dictation.shadow_model_version is not None:
                self._beside.append(dictation)

    def telemetry(self) -> StageTelemetry:
        """What `read_stage` would read of the stage; every app runs both models."""
        data = StageData(
            since=self.since,
            now=self.now,
            arms=self._arms,
            before=self._before,
            expected=self._expected,
            heard=self._heard,
            candidate_share=self._percent / 100,
        )
        if self._state is not ReleaseState.SHADOW:
            return StageTelemetry(offered=data, comparable=data)
        beside = {**self._arms, CANDIDATE: self._beside}
        return StageTelemetry(offered=data, comparable=replace(data, arms=beside))

    def _speak(self, minutes: float) -> list[Dictation]:
        """All dictations of the next minutes, in order of time."""
        who = np.repeat(np.arange(self.fleet.devices), self._rng.poisson(self._devices.per_minute * minutes))
        at = self._clock + minutes * np.sort(self._rng.random(len(who)))
        who = self._rng.permutation(who)
        self._clock += minutes
        has = at >= self._takes[who]
        shadow = self._state is ReleaseState.SHADOW
        runs = has if not shadow else np.zeros(len(who), dtype=bool)
        given_up = _beyond(PATIENCE, self._crashes, who, runs & self._devices.dies[who])
        heard = ~_beyond(self._effect.last_words, self._last_words, who, runs & self._devices.falls_silent[who])
        if self._effect.going_back:
            runs &= ~given_up
        else:
            heard &= ~given_up
        return list(self._dictations(who[heard], at[heard], runs[heard], (has & shadow)[heard]))

    def _dictations(self, who: Ints, at: Floats, runs: Bools, twin: Bools) -> Iterator[Dictation]:
        rng, fleet, effect, devices = self._rng, self.fleet, self._effect, self._devices
        n = len(who)
        words = 1 + rng.poisson(fleet.words - 1, n)
        hard = rng.lognormal(-(fleet.difficulty**2) / 2, fleet.difficulty, n)
        duration = 0.5 + 0.4 * words
        latency = devices.latency_ms[who] * duration / 2 * rng.lognormal(0, fleet.latency_sigma, n)
        habit = devices.correction[who]
        corrected = rng.binomial(words, np.clip((habit + effect.correction * runs) * hard, 0, 1))
        twins = rng.binomial(words, np.clip((habit + effect.correction) * hard, 0, 1))
        odd = devices.proneness[who]
        crashed = rng.random(n) < fleet.crash * odd * np.where(runs, effect.crash, 1.0)
        crashed |= runs & devices.dies[who]
        abandoned = rng.random(n) < fleet.abandonment * odd + effect.abandonment * runs
        fallen = rng.random(n) < fleet.fallback * odd + effect.fallback * runs
        beside = latency * effect.latency * rng.lognormal(0, 0.05, n)
        columns = (who, at, words, corrected, latency * np.where(runs, effect.latency, 1.0), duration)
        flags = (crashed, abandoned, fallen, runs, twin, twins, beside)
        for d, t, w, c, ms, s, crash, given_up, fall, ran, both, wrong, twin_ms in zip(
            *(column.tolist() for column in (*columns, *flags)), strict=True
        ):
            yield Dictation(
                at=START + timedelta(minutes=t),
                received=START + timedelta(minutes=t),
                device_id=devices.names[d],
                device_class=devices.classes[d],
                app_version=APP_VERSION,
                model_version=CANDIDATE_MODEL if ran else LIVE_MODEL,
                words=w,
                corrected_words=c,
                latency_ms=ms,
                duration_s=s,
                crashed=crash,
                abandoned=given_up,
                fallback=fall,
                shadow_model_version=CANDIDATE_MODEL if both else None,
                shadow_corrected_words=wrong if both else None,
                shadow_latency_ms=twin_ms if both else None,
            )


def _beyond(first: int, made: Ints, who: Ints, those: Bools) -> Bools:
    """Which of `those` dictations are not among the `first` of their device; `made` counts them, call after call."""
    beyond = np.zeros(len(who), dtype=bool)
    for n in np.flatnonzero(those):
        beyond[n] = made[who[n]] == first
        made[who[n]] += not beyond[n]
    return beyond


@dataclass(frozen=True)
class _Devices:
    """What stays with a device through a rollout. `bucket` in [0, 100) stands for the HMAC of `assign`."""

    names: list[str]
    classes: list[str]
    bucket: Floats
    per_minute: Floats
    correction: Floats
    proneness: Floats
    latency_ms: Floats
    falls_silent: Bools
    refuses: Bools
    dies: Bools

    @classmethod
    def draw(cls, fleet: Fleet, effect: Effect, rng: np.random.Generator) -> _Devices:
        n = fleet.devices
        kind = np.arange(n) % len(fleet.latency_ms)
        mean, variance = fleet.correction, fleet.correction_spread**2
        weight = mean * (1 - mean) / variance - 1
        use = rng.gamma(fleet.busyness, 1 / fleet.busyness, n)
        strain = use**fleet.strain
        return cls(
            names=[f"device-{number:05d}" for number in range(n)],
            classes=[f"class-{number}" for number in kind],
            bucket=rng.uniform(0, 100, n),
            per_minute=use * fleet.per_hour / 60,
            correction=np.minimum(rng.beta(mean * weight, (1 - mean) * weight, n) * strain, 1.0),
            proneness=rng.gamma(4, 1 / 4, n) * strain,
            latency_ms=np.asarray(fleet.latency_ms)[kind] * rng.lognormal(0, fleet.device_sigma, n),
            falls_silent=rng.random(n) < effect.silent,
            refuses=rng.random(n) < effect.refusing,
            dies=(rng.random(n) if effect.fatal else np.ones(n)) < effect.fatal,
        )
