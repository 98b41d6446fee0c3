"""Telemetry of one stage, folded by device: the unit of every release test is the device, never the dictation.

A device belongs to the arm its bucket puts it in; only its dictations on that arm's model count. Each stage starts
afresh, so both arms are always compared over the same time. What devices did before ends where the shadow stage
begins: what they did later on the live model hangs on the arms that they were in. Devices whose app lies outside the
candidate's range (`release.compatibility`) are in neither arm: it is never offered to them, which would make the arms
lopsided.

An app may run the candidate and lie outside the live model's range; then `assign` leaves the device its usual model,
the newest before the live one that runs on it, or none. Harm is looked for on these devices too, against what their
own apps usually run: the bucket drew both arms from the same devices, so the model is all that they differ in. Devices
that usually run none come into the candidate's arm only and are held against all others. Promotion asks how the
candidate compares with the live model, so it looks only at the devices that run both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache, cached_property, partial

import numpy as np

from voice_pipeline.release.analysis.telemetry_log import Dictation, dictations
from voice_pipeline.release.assignment import bucket
from voice_pipeline.release.compatibility import may_run, newest_live
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.schema.release_policy import Compatibility
from voice_pipeline.store.releases import ReleaseView, release_views
from voice_pipeline.store.store import Store

CANDIDATE, CONTROL = "candidate", "control"
_CLASS_EVENTS = 20
_SHORTEST_S = 0.3
"""Shorter clips count as this long: every answer has a fixed cost, and recognisers pad to it."""


@dataclass(frozen=True)
class StageData:
    """Dictations and devices of a stage.

    Attributes:
        since: when the stage began; `arms` = dictations after it, by arm, in order of receipt.
        before: dictations of the same devices on their usual model before the rollout.
        expected: devices active before the stage, by arm.
        heard: devices heard in the stage on any model, by arm, each with its times in order.
        candidate_share: the share of devices assigned to the candidate's arm, in (0, 1).
        candidate_only: devices whose apps run no other model than the candidate, by the app that each had when the
            stage began, or else was first heard with: later updates move nobody.
    """

    since: datetime
    now: datetime
    arms: dict[str, list[Dictation]]
    before: History
    expected: dict[str, list[str]]
    heard: dict[str, dict[str, list[datetime]]]
    candidate_share: float
    candidate_only: frozenset[str] = frozenset()


@dataclass(frozen=True)
class StageTelemetry:
    """Everything a stage's analysis reads: all devices that the `offered` candidate may reach, whose harm is looked
    for, and the `comparable` ones among them, whose apps run the live model too: all that may promote it.

    In a shadow release, harm is looked for in all that the live model answered, of both arms alike, from the first
    minute on; what promotes is told by the answers beside which the candidate ran.
    """

    offered: StageData
    comparable: StageData


def stage_entry(view: ReleaseView) -> tuple[int, datetime]:
    """(ledger line, time) at which a rolling-out release came into its stage last: for a held one, before it was held;
    for a resumed one, when it was resumed.
    """
    step = next(t for t in reversed(view.transitions) if t.to_state is view.stage)
    return step.seq, datetime.fromisoformat(step.at)


def stage_began(view: ReleaseView, stage: ReleaseState) -> datetime:
    """When a rolling-out release came into `stage` first.

    What a stage has shown is not forgotten by holding and resuming: devices stayed where they were.
    """
    return datetime.fromisoformat(next(t.at for t in view.transitions if t.to_state is stage))


def read_stage(
    store: Store,
    view: ReleaseView,
    live: ReleaseView,
    shadow_percent: float,
    active_minutes: float,
    compatibility: Compatibility,
) -> StageTelemetry:
    """Read the stage in which `view` is, beside the live release."""
    active = timedelta(minutes=active_minutes)
    times = _Times(stage_began(view, ReleaseState.SHADOW), stage_began(view, view.stage), active)
    told = dictations(store, times.rollout - active)
    apps = {dictation.app_version for dictation in told}
    views = release_views(store)
    offered = {
        app: newest_live(views, live, partial(may_run, store, compatibility, app))
        for app in apps
        if may_run(store, compatibility, app, view)
    }
    comparable = {app: usual for app, usual in offered.items() if usual is live}
    percent = shadow_percent if view.stage is ReleaseState.SHADOW else float(view.exposure_percent)
    return StageTelemetry(
        offered=_stage_data(store, view, told, offered, times, percent),
        comparable=_with_twins(_stage_data(store, view, told, comparable, times, percent), view),
    )


@dataclass(frozen=True)
class _Times:
    """When the rollout began, when its stage did, and how long before either devices count as active."""

    rollout: datetime
    stage: datetime
    active: timedelta


def _stage_data(
    store: Store,
    view: ReleaseView,
    told: Iterable[Dictation],
    usual: Mapping[str, ReleaseView | None],
    times: _Times,
    percent: float,
) -> StageData:
    """Fold the dictations of the apps in `usual`, which names the release that each runs without the candidate."""
    arms: dict[str, list[Dictation]] = {CANDIDATE: [], CONTROL: []}
    expected: dict[str, set[str]] = {CANDIDATE: set(), CONTROL: set()}
    before: list[Dictation] = []
    heard: dict[str, dict[str, list[datetime]]] = {CANDIDATE: {}, CONTROL: {}}
    shadow = view.stage is ReleaseState.SHADOW
    models = {app: release.model_version if release else None for app, release in usual.items()}
    arm_of = _arms(store, view, percent)
    candidate_only: dict[str, bool] = {}
    for dictation in told:
        if dictation.app_version not in usual:
            continue
        arm, model = arm_of(dictation.device_id), models[dictation.app_version]
        if dictation.received <= times.stage or dictation.device_id not in candidate_only:
            candidate_only[dictation.device_id] = model is None
        if dictation.at <= times.rollout and dictation.model_version == model and not dictation.remote:
            before.append(dictation)
        if dictation.at <= times.stage:
            if dictation.at > times.stage - times.active:
                expected[arm].add(dictation.device_id)
            continue
        heard[arm].setdefault(dictation.device_id, []).append(dictation.at)
        its_model = view.model_version if arm == CANDIDATE and not shadow else model
        if dictation.model_version == its_model and not dictation.remote:
            arms[arm].append(dictation)
    return StageData(
        since=times.stage,
        now=store.now(),
        arms=arms,
        before=History(before),
        expected={arm: sorted(devices) for arm, devices in expected.items()},
        heard={arm: {device: sorted(times) for device, times in known.items()} for arm, known in heard.items()},
        candidate_share=percent / 100,
        candidate_only=frozenset(device for device, only in candidate_only.items() if only),
    )


def _with_twins(data: StageData, view: ReleaseView) -> StageData:
    """Of a shadow release, the candidate's arm where the candidate ran beside; any other as it is."""
    if view.stage is not ReleaseState.SHADOW:
        return data
    beside = [one for one in data.arms[CANDIDATE] if _ran_beside(one, view.model_version)]
    return replace(data, arms={**data.arms, CANDIDATE: beside})


def _ran_beside(dictation: Dictation, model_version: str) -> bool:
    """Whether that model ran silently and told what it made of it: figures that are missing are no perfect ones."""
    figures = (dictation.shadow_corrected_words, dictation.shadow_latency_ms)
    return dictation.shadow_model_version == model_version and None not in figures


def _arms(store: Store, view: ReleaseView, percent: float) -> Callable[[str], str]:
    """The arm of a device, remembered: an HMAC for each dictation would be felt."""
    salt = store.subject_salt
    return cache(lambda device: CANDIDATE if bucket(salt, view.release_id, device) < percent else CONTROL)


def by_device(dictations: Iterable[Dictation]) -> dict[str, list[Dictation]]:
    """Dictations of each device, in their order, devices in order of their first one."""
    groups: dict[str, list[Dictation]] = defaultdict(list)
    for dictation in dictations:
        groups[dictation.device_id].append(dictation)
    return dict(groups)


@dataclass(frozen=True)
class Spoken:
    """What a device says in the harm tests of a stage: fixed from `known_at` on, whatever it does later."""

    known_at: datetime
    device_id: str
    arm: str
    dictations: tuple[Dictation, ...]


def spoken(data: StageData, first: int, quiet: timedelta) -> list[Spoken]:
    """The devices of both arms in the order in which they became known, which later news cannot change: each with its
    `first` dictations, or, once none has come for as long as `quiet`, with those that it made until then. So people
    whom a model drives away at once are heard too.
    """
    known = [one for arm, rows in data.arms.items() for one in _spoken(arm, rows, first, quiet, data.now)]
    return sorted(known, key=lambda one: (one.known_at, one.device_id))


def _spoken(arm: str, rows: Iterable[Dictation], first: int, quiet: timedelta, now: datetime) -> Iterator[Spoken]:
    """The devices of one arm that are known by `now`, of its dictations in order of receipt."""
    waiting: dict[str, list[Dictation]] = defaultdict(list)
    done: set[str] = set()
    for dictation in rows:
        device = dictation.device_id
        if device in done:
            continue
        group = waiting[device]
        if group and dictation.received - group[-1].received >= quiet:
            continue  # fell quiet before: told below
        group.append(dictation)
        if len(group) == first:
            done.add(device)
            yield Spoken(dictation.received, device, arm, tuple(waiting.pop(device)))
    for device, group in waiting.items():
        until = group[-1].received + quiet
        if until <= now:
            yield Spoken(until, device, arm, tuple(group))


def correction_rate(dictations: Sequence[Dictation]) -> float:
    """Words the user changed over words written, in [0, 1]; an empty answer that the user had to write counts as 1."""
    words = sum(d.words for d in dictations)
    corrected = sum(d.corrected_words for d in dictations)
    return min(1.0, corrected / words) if words else float(corrected > 0)


def shadow_rate(dictations: Sequence[Dictation]) -> float:
    """The same for the silent candidate on the same audio."""
    words = sum(d.words for d in dictations)
    corrected = sum(d.shadow_corrected_words or 0 for d in dictations)
    return min(1.0, corrected / words) if words else float(corrected > 0)


class History:
    """Dictations before a stage, and what follows from them alone: found once, however many tests ask for it."""

    def __init__(self, dictations: Sequence[Dictation]) -> None:
        self.dictations = dictations
        self._latency: dict[float, LatencyReference] = {}

    @cached_property
    def correction_rates(self) -> dict[str, float]:
        """Each device's own correction rate."""
        return {device: correction_rate(group) for device, group in by_device(self.dictations).items()}

    @cached_property
    def dictation_counts(self) -> dict[str, int]:
        """How often each device was used."""
        return {device: len(group) for device, group in by_device(self.dictations).items()}

    def latency(self, otherwise_ms: float) -> LatencyReference:
        """What latencies are held against; see `LatencyReference`."""
        if otherwise_ms not in self._latency:
            self._latency[otherwise_ms] = LatencyReference(self.dictations, otherwise_ms)
        return self._latency[otherwise_ms]


class LatencyReference:
    """The usual models' p95 real-time factor before the rollout, by device class: fixed once it begins.

    Latency over the length of the clip, because long clips take long: against a p95 in milliseconds that some long
    clips set, a model could slow down eightfold on all others unseen. A class with few dictations takes the p95 of all;
    with no history at all, latencies are put relative to `otherwise_ms` as they are.
    """

    def __init__(self, before: Sequence[Dictation], otherwise_ms: float) -> None:
        by_class: dict[str, list[float]] = defaultdict(list)
        for dictation in before:
            by_class[dictation.device_class].append(_real_time_factor(dictation, dictation.latency_ms))
        everything = [value for values in by_class.values() for value in values]
        self._otherwise_ms = otherwise_ms
        self._overall = _p95(everything) if len(everything) >= _CLASS_EVENTS else None
        self._by_class = {name: _p95(values) for name, values in by_class.items() if len(values) >= _CLASS_EVENTS}

    def relative(self, dictation: Dictation, latency_ms: float | None = None) -> float:
        """A latency in multiples of the reference of the dictation's device class."""
        value = dictation.latency_ms if latency_ms is None else latency_ms
        usual = self._by_class.get(dictation.device_class, self._overall)
        if usual is None:
            return value / self._otherwise_ms
        return _real_time_factor(dictation, value) / max(usual, 1e-9)


def _real_time_factor(dictation: Dictation, latency_ms: float) -> float:
    return latency_ms / (1000 * max(dictation.duration_s, _SHORTEST_S))


def _p95(values: Sequence[float]) -> float:
    return float(np.quantile(values, 0.95))
