"""Quality in the field: what each model version does to the people who use it, and whether the fleet still reports.

Rates are pooled over a day with intervals that resample devices (`stats.bootstrap`); a limit is broken only when the
whole interval lies beyond it. Latency percentiles come from the day's sketches. Only the live model opens incidents
here: a model in canary is judged by the release controller, every tick and with tests made for looking often. They ask
people to look (`observe`): nothing acts on them by itself.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import date, timedelta

import numpy as np
from sqlalchemy import select

from voice_pipeline.monitoring.drift import close_superseded, flag_state
from voice_pipeline.monitoring.reports import QUALITY, store_report
from voice_pipeline.monitoring.windows import EVERYONE, read_window, telemetry_chunks
from voice_pipeline.schema.base import Record
from voice_pipeline.schema.monitoring import Action, IncidentKind
from voice_pipeline.schema.monitoring_policy import MonitoringPolicy, QualityPolicy
from voice_pipeline.schema.training import Interval
from voice_pipeline.stats.bootstrap import cluster_bootstrap_ratio
from voice_pipeline.store.incidents import close_incident, open_incident, open_incidents
from voice_pipeline.store.releases import live, rolling_out
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import telemetry

COUNTS = ("events", "words", "corrected_words", "crashed", "abandoned", "fallback")


class ModelQuality(Record):
    """One model version on one day. Rates are fractions (of words, or of dictations) with intervals over devices."""

    model_version: str
    events: int
    devices: int
    correction_rate: Interval
    crash_rate: Interval
    abandoned_rate: Interval
    fallback_rate: Interval
    latency_p50_ms: float
    latency_p95_ms: float
    mean_confidence: float


class Breach(Record):
    """A limit of the policy that the live model, or the fleet, is surely beyond."""

    metric: str
    value: float
    limit: float


class QualityReport(Record):
    """One day of the fleet, by model. `reporting_share` is None while the day lasts or nothing came the day before."""

    day: str
    events: int
    devices: int
    live_model: str | None
    models: tuple[ModelQuality, ...]
    reporting_share: float | None
    breaches: tuple[Breach, ...] = ()
    incident_ids: tuple[str, ...] = ()


def report_quality(store: Store, policy: MonitoringPolicy, day: str) -> QualityReport:
    """Measure `day`, open an incident a broken limit of the live model, close those that hold again, store the report.

    Raises:
        DamagedWindowError: a window of the day cannot be read.
    """
    close_superseded(store, IncidentKind.QUALITY)
    report = judge_quality(store, policy.quality, day)
    opened = tuple(_open(store, report, breach) for breach in report.breaches)
    report = report.model_copy(update={"incident_ids": opened})
    store_report(store, QUALITY, day, report)
    _close_mended(store, policy.quality, report)
    return report


def judge_quality(store: Store, policy: QualityPolicy, day: str) -> QualityReport:
    """The figures and breaches of a day, without opening or storing anything."""
    sums = _sums_by_device(store, day)
    models = tuple(_model_quality(store, policy, day, model, devices) for model, devices in sorted(sums.items()))
    reported = {device for devices in sums.values() for device in devices}
    release = live(store)
    live_model = release.model_version if release else None
    share = _reporting_share(store, day, reported)
    return QualityReport(
        day=day,
        events=sum(model.events for model in models),
        devices=len(reported),
        live_model=live_model,
        models=models,
        reporting_share=share,
        breaches=find_breaches(policy, next((m for m in models if m.model_version == live_model), None), share),
    )


def find_breaches(
    policy: QualityPolicy, quality: ModelQuality | None, reporting_share: float | None
) -> tuple[Breach, ...]:
    """Limits that are surely broken; pure. No judgement on fewer than `min_events`."""
    found = []
    if reporting_share is not None and reporting_share < policy.min_reporting_share:
        found.append(Breach(metric="reporting_share", value=reporting_share, limit=policy.min_reporting_share))
    if quality is None or quality.events < policy.min_events:
        return tuple(found)
    for metric, interval, limit in (
        ("crash_rate", quality.crash_rate, policy.max_crash_rate),
        ("abandoned_rate", quality.abandoned_rate, policy.max_abandoned_rate),
        ("fallback_rate", quality.fallback_rate, policy.max_fallback_rate),
    ):
        if interval.low > limit:
            found.append(Breach(metric=metric, value=interval.value, limit=limit))
    if quality.latency_p95_ms > policy.max_latency_p95_ms:
        found.append(Breach(metric="latency_p95_ms", value=quality.latency_p95_ms, limit=policy.max_latency_p95_ms))
    return tuple(found)


def _sums_by_device(store: Store, day: str) -> dict[str, dict[str, dict[str, float]]]:
    """model version → device → sums; memory grows with devices, not with events."""
    sums: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(float)))
    for chunk in telemetry_chunks(store, day):
        for event in chunk:
            device = sums[event["model_version"]][event["device_id"]]
            device["events"] += 1
            device["confidence"] += event["confidence"]
            for name in COUNTS[1:]:
                device[name] += event[name]
    return sums


def _model_quality(
    store: Store, policy: QualityPolicy, day: str, model: str, devices: dict[str, dict[str, float]]
) -> ModelQuality:
    columns = {name: [device[name] for device in devices.values()] for name in (*COUNTS, "confidence")}

    def rate(numerator: str, denominator: str) -> Interval:
        value, low, high = cluster_bootstrap_ratio(
            columns[numerator], columns[denominator], list(devices), level=policy.level
        )
        return Interval(value=value, low=low, high=high)

    latency = read_window(store, day, model).get((EVERYONE, "latency_ms"))
    p50, p95 = latency.quantiles(np.array([0.5, 0.95])) if latency else (0.0, 0.0)
    events = sum(columns["events"])
    return ModelQuality(
        model_version=model,
        events=int(events),
        devices=len(devices),
        correction_rate=rate("corrected_words", "words"),
        crash_rate=rate("crashed", "events"),
        abandoned_rate=rate("abandoned", "events"),
        fallback_rate=rate("fallback", "events"),
        latency_p50_ms=float(p50),
        latency_p95_ms=float(p95),
        mean_confidence=sum(columns["confidence"]) / events,
    )


def _reporting_share(store: Store, day: str, reported: set[str]) -> float | None:
    """Share of the devices of the day before that reported on `day`; None while the day is not over."""
    if day >= store.now().date().isoformat():
        return None
    before = (date.fromisoformat(day) - timedelta(days=1)).isoformat()
    statement = select(telemetry.c.device_id).where(telemetry.c.day == before).distinct()
    expected = {row["device_id"] for row in store.database.rows(statement)}
    return len(expected & reported) / len(expected) if expected else None


def _open(store: Store, report: QualityReport, breach: Breach) -> str:
    incident = open_incident(
        store,
        kind=IncidentKind.QUALITY,
        cause={"model_version": report.live_model, "metric": breach.metric},
        model_version=report.live_model,
        action=Action.OBSERVE,
        summary=f"{breach.metric} of {report.live_model} on {report.day}: {breach.value:.4g}, limit {breach.limit:.4g}",
        detail={
            "day": report.day,
            "metric": breach.metric,
            "value": breach.value,
            "limit": breach.limit,
            "traffic": {"events": report.events, "devices": report.devices},
            "flags": flag_state(live(store), rolling_out(store)),
        },
    )
    return incident.incident_id


def _close_mended(store: Store, policy: QualityPolicy, report: QualityReport) -> None:
    """Close incidents whose metric this report has measured and found within its limit."""
    judged = {m.model_version for m in report.models if m.events >= policy.min_events}
    broken = {breach.metric for breach in report.breaches}
    for incident in open_incidents(store, IncidentKind.QUALITY):
        metric = incident.detail.get("metric")
        measured = report.reporting_share is not None if metric == "reporting_share" else report.live_model in judged
        if measured and metric not in broken:
            close_incident(store, incident.incident_id, f"{metric} is within its limit again on {report.day}")
