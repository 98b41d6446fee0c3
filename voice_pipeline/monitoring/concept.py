"""Concept drift: the same inputs, worse answers.

The live model's corrected share of words is compared with that of its own first events, **standardised to the training
inputs**: events are stratified by terciles of SNR and duration of the reference, and each stratum counts by its share
of the reference (direct standardisation; Kitagawa 1955). A shift of the inputs alone therefore moves nothing here;
where inputs have drifted so far that the strata no longer overlap, coverage is too low and nothing is concluded. The
interval of the rise resamples devices (cluster bootstrap, Davison and Hinkley 1997 §3.8). Beside it: the expected
calibration error of the device's confidence (Naeini et al., 2015) and, on the labelled random audit stream, WER against
the model's own evaluation. A rise asks for labels; a rise that audited labels confirm asks for training.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import RowMapping, and_, or_, select

from voice_pipeline.monitoring.audits import AuditedWer, audited_wer
from voice_pipeline.monitoring.drift import DriftStatus, close_superseded, cooling_down, flag_state, judge_drift
from voice_pipeline.monitoring.reference import Reference, live_reference
from voice_pipeline.monitoring.reports import CONCEPT, store_report
from voice_pipeline.monitoring.windows import events_by_day
from voice_pipeline.schema.base import Record
from voice_pipeline.schema.monitoring import Action, IncidentKind
from voice_pipeline.schema.monitoring_policy import ConceptPolicy, MonitoringPolicy
from voice_pipeline.schema.training import Interval
from voice_pipeline.store.incidents import open_incident
from voice_pipeline.store.releases import live, rolling_out
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import telemetry

STRATA = ("snr_db", "duration_s")
RESAMPLES = 500
CALIBRATION_BINS = 10
SEED = 0


class ConceptStatus(StrEnum):
    NO_LIVE_MODEL = "no_live_model"
    TOO_LITTLE = "too_little"
    STABLE = "stable"
    INPUT_DRIFT = "input_drift"  # worse, and the inputs have drifted: that incident stands for both
    DRIFTED = "drifted"


class ConceptReport(Record):
    """One day of the live model against its first events. Rates are corrected words over words, standardised."""

    day: str
    status: ConceptStatus
    events: int
    model_version: str | None = None
    baseline_events: int = 0
    period_events: int = 0
    coverage: float = 0.0
    baseline_rate: float | None = None
    period_rate: float | None = None
    rise: Interval | None = None
    baseline_calibration_error: float | None = None
    period_calibration_error: float | None = None
    audited: AuditedWer | None = None
    incident_id: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Period:
    """Answers of one stretch of time. Arrays are (devices, cells) sums; `confidence` and `right` are (events,)."""

    events: int
    words: NDArray[np.float64]
    corrected: NDArray[np.float64]
    confidence: NDArray[np.float64]
    right: NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Standardised corrected shares of two periods and the rise between them."""

    coverage: float
    baseline_rate: float
    period_rate: float
    rise: Interval


def report_concept_drift(store: Store, policy: MonitoringPolicy, day: str) -> ConceptReport:
    """Judge `day`, open an incident if the answers got worse and inputs do not explain it, store the report.

    Raises:
        MissingReferenceError: the live model's training data has no features.
    """
    note = close_superseded(store, IncidentKind.CONCEPT_DRIFT)
    report = judge_concept(store, policy.concept, day)
    if report.status is ConceptStatus.DRIFTED:
        if judge_drift(store, policy.drift, day).status is DriftStatus.DRIFTED:
            report = report.model_copy(update={"status": ConceptStatus.INPUT_DRIFT})
        elif (wait := cooling_down(store, policy.drift, IncidentKind.CONCEPT_DRIFT)) is not None:
            note = f"worse, no incident within the cooldown: {wait}"
        else:
            report = report.model_copy(update={"incident_id": _open(store, policy.concept, report)})
    report = report.model_copy(update={"note": note or report.note})
    store_report(store, CONCEPT, day, report)
    return report


def judge_concept(store: Store, policy: ConceptPolicy, day: str) -> ConceptReport:
    """The comparison of a day, without opening or storing anything."""
    events = events_by_day(store, [day]).get(day, 0)
    against = live_reference(store)
    if against is None:
        return ConceptReport(day=day, status=ConceptStatus.NO_LIVE_MODEL, events=events, note="no model is live yet")
    release, reference = against
    edges = strata_edges(reference, policy.cells_per_feature)
    first, last = _baseline_events(store, release.model_version, policy.baseline_events)
    later = _events_after(store, release.model_version, day, last) if last else []
    baseline, period = gather(first, edges), gather(later, edges)
    report = ConceptReport(
        day=day,
        status=ConceptStatus.TOO_LITTLE,
        events=events,
        model_version=release.model_version,
        baseline_events=baseline.events,
        period_events=period.events,
        audited=audited_wer(store, release.model_version),
    )
    if baseline.events < policy.baseline_events or period.events < policy.min_events:
        return report
    return _judged(
        policy, report, compare(policy, baseline, period, reference_shares(reference, edges)), baseline, period
    )


def strata_edges(reference: Reference, cells: int) -> dict[str, NDArray[np.float64]]:
    """Inner edges of `cells` equal-share strata of each stratifying feature."""
    ranks = np.arange(1, cells) / cells
    return {name: np.quantile([row[name] for row in reference.rows], ranks) for name in STRATA}


def reference_shares(reference: Reference, edges: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Share of training clips in each cell, shape (cells,), sum 1."""
    counts = np.bincount([_cell(row, edges) for row in reference.rows], minlength=_cells(edges))
    return np.asarray(counts / counts.sum())


def gather(events: Iterable[dict[str, Any]], edges: dict[str, NDArray[np.float64]]) -> Period:
    """Sums by device and cell over events that gave words; crashes say nothing about the answers."""
    index: dict[str, int] = {}
    rows = []
    for event in events:
        if event["words"] > 0 and not event["crashed"]:
            device = index.setdefault(event["device_id"], len(index))
            rows.append((device, _cell(event, edges), event["words"], event["corrected_words"], event["confidence"]))
    data = np.array(rows, dtype=np.float64).reshape(-1, 5)
    words, corrected = np.zeros((len(index), _cells(edges))), np.zeros((len(index), _cells(edges)))
    where = data[:, 0].astype(int), data[:, 1].astype(int)
    np.add.at(words, where, data[:, 2])
    np.add.at(corrected, where, data[:, 3])
    return Period(len(rows), words, corrected, data[:, 4], (data[:, 3] == 0).astype(np.float64))


def compare(policy: ConceptPolicy, baseline: Period, period: Period, shares: NDArray[np.float64]) -> Comparison | None:
    """Standardised rates over the cells that both periods cover; None where they cover too little of the reference."""
    covered = np.minimum(baseline.words.sum(axis=0), period.words.sum(axis=0)) >= policy.min_cell_words
    coverage = float(shares[covered].sum())
    if coverage < policy.min_coverage:
        return None
    weights = np.where(covered, shares, 0.0) / coverage
    rng = np.random.default_rng(SEED)
    rises = _draws(period, weights, rng) - _draws(baseline, weights, rng)
    low, high = np.quantile(rises, [(1 - policy.level) / 2, (1 + policy.level) / 2])
    before = _rate(baseline.words.sum(axis=0), baseline.corrected.sum(axis=0), weights)
    after = _rate(period.words.sum(axis=0), period.corrected.sum(axis=0), weights)
    rise = Interval(value=float(after - before), low=float(low), high=float(high))
    return Comparison(coverage, float(before), float(after), rise)


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Expected calibration error in [0, 1] over ten equal-width bins; `right` is 1 where nothing was corrected."""
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidence)) if len(confidence) else 0.0


def _judged(
    policy: ConceptPolicy, report: ConceptReport, found: Comparison | None, baseline: Period, period: Period
) -> ConceptReport:
    if found is None:
        return report.model_copy(update={"note": "inputs of both periods share too few strata to compare answers"})
    before = calibration_error(baseline.confidence, baseline.right)
    after = calibration_error(period.confidence, period.right)
    worse = found.rise.low >= policy.margin
    overconfident = after - before >= policy.calibration_margin and found.rise.low > 0
    return report.model_copy(
        update={
            "status": ConceptStatus.DRIFTED if worse or overconfident else ConceptStatus.STABLE,
            "coverage": found.coverage,
            "baseline_rate": found.baseline_rate,
            "period_rate": found.period_rate,
            "rise": found.rise,
            "baseline_calibration_error": before,
            "period_calibration_error": after,
        }
    )


def _open(store: Store, policy: ConceptPolicy, report: ConceptReport) -> str:
    confirmed = report.audited is not None and report.audited.confirms(policy)
    rise = report.rise
    assert rise is not None  # a drifted report has one
    incident = open_incident(
        store,
        kind=IncidentKind.CONCEPT_DRIFT,
        cause={"model_version": report.model_version},
        model_version=report.model_version,
        action=Action.RETRAIN if confirmed else Action.LABEL,
        summary=(
            f"{report.model_version} is corrected more on {report.day} than at first, on the same kind of input: "
            f"+{rise.value:.1%} of words ({rise.low:.1%} to {rise.high:.1%})"
        ),
        detail={
            **report.model_dump(mode="json", exclude={"incident_id", "note"}),
            "flags": flag_state(live(store), rolling_out(store)),
        },
    )
    return incident.incident_id


def _baseline_events(store: Store, model_version: str, limit: int) -> tuple[list[dict[str, Any]], RowMapping | None]:
    """The model's first `limit` events, and the last row among them."""
    statement = (
        select(telemetry.c.at, telemetry.c.event_id, telemetry.c.event)
        .where(telemetry.c.model_version == model_version)
        .order_by(telemetry.c.at, telemetry.c.event_id)
        .limit(limit)
    )
    rows = store.database.rows(statement)
    return [row["event"] for row in rows], rows[-1] if rows else None


def _events_after(store: Store, model_version: str, day: str, last: RowMapping) -> list[dict[str, Any]]:
    later = or_(
        telemetry.c.at > last["at"], and_(telemetry.c.at == last["at"], telemetry.c.event_id > last["event_id"])
    )
    statement = select(telemetry.c.event).where(
        telemetry.c.model_version == model_version, telemetry.c.day == day, later
    )
    return [row["event"] for row in store.database.rows(statement)]


def _cell(values: dict[str, Any], edges: dict[str, NDArray[np.float64]]) -> int:
    cell = 0
    for name in STRATA:
        cell = cell * (len(edges[name]) + 1) + int(np.searchsorted(edges[name], values[name], side="right"))
    return cell


def _cells(edges: dict[str, NDArray[np.float64]]) -> int:
    return int(np.prod([len(edges[name]) + 1 for name in STRATA]))


def _draws(period: Period, weights: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """(RESAMPLES,) standardised rates, whole devices drawn with replacement."""
    devices = len(period.words)
    times = rng.multinomial(devices, np.full(devices, 1 / devices), size=RESAMPLES)
    return _rate(times @ period.words, times @ period.corrected, weights)


def _rate(
    words: NDArray[np.float64], corrected: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted mean of the cells' rates, over the last axis; a cell that a draw left empty counts nothing."""
    rates = np.divide(corrected, words, out=np.zeros_like(corrected, dtype=np.float64), where=words > 0)
    used = np.where(words > 0, weights, 0.0)
    return np.asarray((rates * used).sum(axis=-1) / np.maximum(used.sum(axis=-1), 1e-12))
