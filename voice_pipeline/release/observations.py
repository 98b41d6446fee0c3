"""Telemetry of one stage, folded by device: the unit of every release test is the device, never the dictation.

A device belongs to the arm its bucket puts it in; only its dictations on that arm's model count. Each stage starts
afresh, so both arms are always compared over the same time. Devices whose app is too old for the candidate or for
the live model are in neither arm: one of the two is never offered to them, which would make the arms lopsided.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from sqlalchemy import func, select

from voice_pipeline.release.assignment import bucket, is_older
from voice_pipeline.release.evidence import find_bundle
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.store.ledger import Ledger
from voice_pipeline.store.releases import ReleaseView
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import telemetry

CANDIDATE, CONTROL = "candidate", "control"
_CLASS_EVENTS = 20
_SHORTEST_S = 0.3
"""Shorter clips count as this long: every answer has a fixed cost, and recognisers pad to it."""


@dataclass(frozen=True)
class Dictation:
    """What the tests read of one telemetry event. Shadow figures are None unless the candidate ran beside."""

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
    shadow_model_version: str | None = None
    shadow_corrected_words: int | None = None
    shadow_latency_ms: float | None = None


@dataclass(frozen=True)
class StageData:
    """Everything a stage's analysis reads.

    Attributes:
        since: when the stage began; `arms` = dictations after it, by arm, in order of time.
        before: the live model's dictations on the same devices before it.
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


def stage_entry(view: ReleaseView) -> tuple[int, datetime]:
    """(ledger line, time) at which a rolling-out release came into its stage; for a held one, before it was held."""
    step = next(t for t in reversed(view.transitions) if t.to_state is view.stage)
    return step.seq, datetime.fromisoformat(step.at)


def read_stage(
    store: Store, view: ReleaseView, live_model: str, shadow_percent: float, active_minutes: float
) -> StageData:
    """Read the stage in which `view` is, beside the live model."""
    _, since = stage_entry(view)
    percent = shadow_percent if view.stage is ReleaseState.SHADOW else float(view.exposure_percent)
    salt = store.subject_salt
    dictations = _dictations(store, since - timedelta(minutes=active_minutes))
    for model_version in (view.model_version, live_model):
        dictations = _able(store, dictations, model_version)
    arm_of = {
        device: CANDIDATE if bucket(salt, view.release_id, device) < percent else CONTROL
        for device in {d.device_id for d in dictations}
    }
    shadow = view.stage is ReleaseState.SHADOW
    model_of = {CANDIDATE: live_model if shadow else view.model_version, CONTROL: live_model}
    arms: dict[str, list[Dictation]] = {CANDIDATE: [], CONTROL: []}
    expected: dict[str, set[str]] = {CANDIDATE: set(), CONTROL: set()}
    before: list[Dictation] = []
    heard: dict[str, datetime] = {}
    for dictation in dictations:
        arm = arm_of[dictation.device_id]
        if dictation.at <= since:
            expected[arm].add(dictation.device_id)
            if dictation.model_version == live_model:
                before.append(dictation)
            continue
        heard.setdefault(dictation.device_id, dictation.at)
        silent_twin = shadow and arm == CANDIDATE and dictation.shadow_model_version != view.model_version
        if dictation.model_version == model_of[arm] and not silent_twin:
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


def _able(store: Store, dictations: list[Dictation], model_version: str) -> list[Dictation]:
    """Those of apps that run a model; all of them where nobody knows what it needs, so that harm is seen."""
    bundle = find_bundle(store, model_version)
    if bundle is None:
        return dictations
    needed = bundle.manifest.min_app_version
    too_old = {app for app in {d.app_version for d in dictations} if is_older(app, needed)}
    return [d for d in dictations if d.app_version not in too_old]


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
    """The live model's p95 real-time factor before the stage, by device class: fixed once the stage begins.

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
        shadow_model_version=event.get("shadow_model_version"),
        shadow_corrected_words=event.get("shadow_corrected_words"),
        shadow_latency_ms=event.get("shadow_latency_ms"),
    )
