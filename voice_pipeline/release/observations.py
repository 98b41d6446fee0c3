"""Telemetry of one stage, folded by device: the unit of every release test is the device, never the dictation.

A device belongs to the arm its bucket puts it in; only its dictations on that arm's model count. Each stage starts
afresh, so both arms are always compared over the same time. Devices whose app is too old for the candidate are in
neither arm: it is never offered to them, which would make the arms lopsided.

An app may run the candidate and be too old for the live model; then `assign` leaves the device its usual model, the
newest before the live one that runs on it, or none. Harm is looked for on these devices too, against what their own
apps usually run: the bucket drew both arms from the same devices, so the model is all that they differ in. (Devices
that usually run none come into the candidate's arm only.) Promotion asks how the candidate compares with the live
model, so it looks only at the devices that run both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from sqlalchemy import func, select

from voice_pipeline.release.assignment import bucket, needed_app, newest_live
from voice_pipeline.schema.inference import InferenceMode
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.store.ledger import Ledger
from voice_pipeline.store.releases import ReleaseView, release_views
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import telemetry
from voice_pipeline.trust import is_older

CANDIDATE, CONTROL = "candidate", "control"
_CLASS_EVENTS = 20
_SHORTEST_S = 0.3
"""Shorter clips count as this long: every answer has a fixed cost, and recognisers pad to it."""


@dataclass(frozen=True)
class Dictation:
    """What the tests read of one telemetry event. Shadow figures are None unless the candidate ran beside.

    `remote`: the edge answered, with the live model whatever the device's arm; such a one counts in neither.
    """

    at: datetime
    device_id: str
    device_class: str
    app_version: str
    model_version: str
    words: int
    corrected_words: int
    latency_ms: float
    duration_s: float
    crashed: bool
    abandoned: bool
    fallback: bool
    remote: bool = False
    shadow_model_version: str | None = None
    shadow_corrected_words: int | None = None
    shadow_latency_ms: float | None = None


@dataclass(frozen=True)
class StageData:
    """Dictations and devices of a stage.

    Attributes:
        since: when the stage began; `arms` = dictations after it, by arm, in order of time.
        before: dictations of the same devices on their usual model before it.
        expected: devices active before the stage, by arm.
        heard: devices heard in the stage on any model, each with its first time.
        candidate_share: the share of devices assigned to the candidate's arm, in (0, 1).
    """

    since: datetime
    now: datetime
    arms: dict[str, list[Dictation]]
    before: list[Dictation]
    expected: dict[str, list[str]]
    heard: dict[str, datetime]
    candidate_share: float


@dataclass(frozen=True)
class StageTelemetry:
    """Everything a stage's analysis reads: all devices that the `offered` candidate may reach, whose harm is looked
    for, and the `comparable` ones among them, whose apps run the live model too: all that may promote it.
    """

    offered: StageData
    comparable: StageData


def stage_entry(view: ReleaseView) -> tuple[int, datetime]:
    """(ledger line, time) at which a rolling-out release came into its stage; for a held one, before it was held."""
    step = next(t for t in reversed(view.transitions) if t.to_state is view.stage)
    return step.seq, datetime.fromisoformat(step.at)


def read_stage(
    store: Store, view: ReleaseView, live: ReleaseView, shadow_percent: float, active_minutes: float
) -> StageTelemetry:
    """Read the stage in which `view` is, beside the live release."""
    _, since = stage_entry(view)
    dictations = _dictations(store, since - timedelta(minutes=active_minutes))
    apps = {dictation.app_version for dictation in dictations}
    views = release_views(store)
    offered = {
        app: newest_live(views, live, partial(_may_run, store, app)) for app in apps if _may_run(store, app, view)
    }
    comparable = {app: usual for app, usual in offered.items() if usual is live}
    percent = shadow_percent if view.stage is ReleaseState.SHADOW else float(view.exposure_percent)
    return StageTelemetry(
        offered=_stage_data(store, view, dictations, offered, since, percent),
        comparable=_stage_data(store, view, dictations, comparable, since, percent),
    )


def _may_run(store: Store, app_version: str, view: ReleaseView) -> bool:
    """False for an app that is too old; True where nobody knows what the release needs, so that its harm is seen."""
    needed = needed_app(store, view)
    return needed is None or not is_older(app_version, needed)


def _stage_data(
    store: Store,
    view: ReleaseView,
    dictations: Iterable[Dictation],
    usual: Mapping[str, ReleaseView | None],
    since: datetime,
    percent: float,
) -> StageData:
    """Fold the dictations of the apps in `usual`, which names the release that each runs without the candidate."""
    arms: dict[str, list[Dictation]] = {CANDIDATE: [], CONTROL: []}
    expected: dict[str, set[str]] = {CANDIDATE: set(), CONTROL: set()}
    before: list[Dictation] = []
    heard: dict[str, datetime] = {}
    shadow = view.stage is ReleaseState.SHADOW
    models = {app: release.model_version if release else None for app, release in usual.items()}
    arm_of = _arms(store, view, percent)
    for dictation in dictations:
        if dictation.app_version not in usual:
            continue
        arm, model = arm_of(dictation.device_id), models[dictation.app_version]
        if dictation.at <= since:
            expected[arm].add(dictation.device_id)
            if dictation.model_version == model and not dictation.remote:
                before.append(dictation)
            continue
        heard.setdefault(dictation.device_id, dictation.at)
        silent_twin = shadow and arm == CANDIDATE and dictation.shadow_model_version != view.model_version
        its_model = view.model_version if arm == CANDIDATE and not shadow else model
        if dictation.model_version == its_model and not silent_twin and not dictation.remote:
            arms[arm].append(dictation)
    return StageData(
        since=since,
        now=store.now(),
        arms=arms,
        before=before,
        expected={arm: sorted(devices) for arm, devices in expected.items()},
        heard=heard,
        candidate_share=percent / 100,
    )


def _arms(store: Store, view: ReleaseView, percent: float) -> Callable[[str], str]:
    """The arm of a device, remembered: an HMAC for each dictation would be felt."""
    salt = store.subject_salt
    return cache(lambda device: CANDIDATE if bucket(salt, view.release_id, device) < percent else CONTROL)


def by_device(dictations: Iterable[Dictation]) -> dict[str, list[Dictation]]:
    """Dictations of each device, in order of time, devices in order of their first one."""
    groups: dict[str, list[Dictation]] = defaultdict(list)
    for dictation in dictations:
        groups[dictation.device_id].append(dictation)
    return dict(groups)


def completed(dictations: Sequence[Dictation], first: int) -> list[list[Dictation]]:
    """The first `first` dictations of each device that sent as many, in the order in which devices completed them."""
    whole = [group[:first] for group in by_device(dictations).values() if len(group) >= first]
    return sorted(whole, key=lambda group: (group[-1].at, group[-1].device_id))


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


class LatencyReference:
    """The usual models' p95 real-time factor before the stage, by device class: fixed once the stage begins.

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


_read: WeakKeyDictionary[Ledger, tuple[tuple[str, int], list[Dictation]]] = WeakKeyDictionary()


def _dictations(store: Store, after: datetime) -> list[Dictation]:
    """All dictations after an instant, in order of time. Events are only ever added, so their number tells of news."""
    key = (after.isoformat(), int(store.database.scalar(select(func.count()).select_from(telemetry)) or 0))
    known = _read.get(store.ledger)
    if known is None or known[0] != key:
        known = (key, _read_dictations(store, after))
        _read[store.ledger] = known
    return known[1]


def _read_dictations(store: Store, after: datetime) -> list[Dictation]:
    rows = store.database.rows(
        select(telemetry.c.event)
        .where(telemetry.c.at > after.isoformat())
        .order_by(telemetry.c.at, telemetry.c.event_id)
    )
    return [_dictation(row["event"]) for row in rows]


def _dictation(event: dict[str, Any]) -> Dictation:
    return Dictation(
        at=datetime.fromisoformat(event["at"]),
        device_id=event["device_id"],
        device_class=event["context"]["device_class"],
        app_version=event["context"]["app_version"],
        model_version=event["model_version"],
        words=event["words"],
        corrected_words=event["corrected_words"],
        latency_ms=event["latency_ms"],
        duration_s=event["duration_s"],
        crashed=event.get("crashed", False),
        abandoned=event.get("abandoned", False),
        fallback=event.get("fallback", False),
        remote=event.get("answered") == InferenceMode.REMOTE,
        shadow_model_version=event.get("shadow_model_version"),
        shadow_corrected_words=event.get("shadow_corrected_words"),
        shadow_latency_ms=event.get("shadow_latency_ms"),
    )
