"""Input drift: does the fleet speak and sound like what the live model was trained and accepted on (`reference`)?

A feature has drifted when PSI **and** KS **and** Jensen-Shannon reach their floors (practical size), its p-value passes
Benjamini-Hochberg over all cohorts and features of the report (certainty), and both sides are large enough. Two counted
features make a drifted window; one open incident per (live model, cohort); it closes after clean reports below a share
of the floors (hysteresis) or when another model is live, and then a cooldown begins.

Floors come from real speech (AN4 training clips as the reference, 948 clips, 74 speakers; bias-corrected figures):

| traffic, 1,800 dictations | counted features over the floors | duration_s psi/ks/js | snr_db psi/ks/js |
|---|---|---|---|
| AN4 test speakers | 0 | 0.07 / 0.08 / 0.01 | 0.58 / 0.17 / 0.09 |
| 30 % FSDD digits, 300-3400 Hz, noise at 5-15 dB | 2 | 0.36 / 0.30 / 0.06 | 0.73 / 0.30 / 0.11 |
| 60 % of it | 3 | 1.30 / 0.59 / 0.22 | 1.70 / 0.59 / 0.26 |
| 100 % of it | 4 | 4.35 / 0.98 / 0.60 | 4.65 / 0.99 / 0.64 |

PSI alone at the customary 0.25 would call AN4's own test speakers drifted (snr_db 0.58), and so would a p-value
(5e-16): ten speakers are no random sample of seventy-four. Of 300 draws of ten unseen training speakers against the
rest, 3 % have two counted features over the floors (synthesised voices, six of forty: 2 %); a share of 40 % of the new
population was found in every draw (synthesised digits are nearer: 85 % of draws at a share of 60 %, all at 70 %).
Against the 18 speakers of one device class chance is four times as likely: hence `cohort_floor_factor`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Any

import numpy as np

from voice_pipeline.monitoring.reference import Reference, live_reference
from voice_pipeline.monitoring.reports import DRIFT, reports_before, store_report
from voice_pipeline.monitoring.windows import EVERYONE, device_count, events_by_day, read_window
from voice_pipeline.schema.base import Record
from voice_pipeline.schema.monitoring import Action, DriftFinding, Incident, IncidentKind
from voice_pipeline.schema.monitoring_policy import DriftPolicy, Floors, MonitoringPolicy
from voice_pipeline.schema.telemetry import DRIFT_FEATURES
from voice_pipeline.stats.drift import Distance, distance
from voice_pipeline.stats.fdr import q_values
from voice_pipeline.stats.sketches import Sketch
from voice_pipeline.store.incidents import close_incident, last_closed_at, open_incident, open_incidents
from voice_pipeline.store.releases import ReleaseView, live, rolling_out
from voice_pipeline.store.store import Store


class DriftStatus(StrEnum):
    """Whether a report judged anything at all."""

    NO_LIVE_MODEL = "no_live_model"
    TOO_LITTLE = "too_little"
    CLEAR = "clear"
    WITHIN_FLOORS = "within_floors"
    DRIFTED = "drifted"


class DriftReport(Record):
    """One day of the live model against its reference. `drifted_cohorts` have enough drifted features."""

    day: str
    status: DriftStatus
    events: int
    devices: int = 0
    model_version: str | None = None
    dataset_version: str | None = None
    findings: tuple[DriftFinding, ...] = ()
    drifted_cohorts: tuple[str, ...] = ()
    incident_ids: tuple[str, ...] = ()
    note: str = ""

    def of(self, cohort: str) -> tuple[DriftFinding, ...]:
        """Findings of one cohort."""
        return tuple(finding for finding in self.findings if finding.cohort == cohort)


def report_drift(store: Store, policy: MonitoringPolicy, day: str) -> DriftReport:
    """Judge `day`, open or close incidents accordingly, store the report.

    Raises:
        MissingReferenceError: the live model's training data has no features.
        DamagedWindowError: a window of the day cannot be read.
    """
    report = judge_drift(store, policy.drift, day)
    note = close_superseded(store, IncidentKind.INPUT_DRIFT)
    if report.status is DriftStatus.DRIFTED:
        if (wait := cooling_down(store, policy.drift, IncidentKind.INPUT_DRIFT)) is not None:
            note = f"drifted, no incident within the cooldown: {wait}"
        else:
            opened = [_open(store, report, cohort) for cohort in _cohorts_to_report(store, report)]
            report = report.model_copy(update={"incident_ids": tuple(incident.incident_id for incident in opened)})
    report = report.model_copy(update={"note": note or report.note})
    store_report(store, DRIFT, day, report)
    if report.status is DriftStatus.CLEAR:
        _close_cleared(store, policy.drift, day)
    return report


def judge_drift(store: Store, policy: DriftPolicy, day: str) -> DriftReport:
    """The findings of a day, without opening, closing or storing anything."""
    events = events_by_day(store, [day]).get(day, 0)
    against = live_reference(store)
    if against is None:
        return DriftReport(day=day, status=DriftStatus.NO_LIVE_MODEL, events=events, note="no model is live yet")
    release, reference = against
    window = read_window(store, day, release.model_version)
    devices = device_count(store, day, release.model_version)
    findings = find_drift(policy, reference, window)
    drifted = drifted_cohorts(policy, findings) if devices >= policy.min_devices else ()
    return DriftReport(
        day=day,
        status=_status(policy, findings, drifted, devices),
        events=events,
        devices=devices,
        model_version=release.model_version,
        dataset_version=reference.dataset_version,
        findings=findings,
        drifted_cohorts=drifted,
    )


def find_drift(
    policy: DriftPolicy, reference: Reference, window: dict[tuple[str, str], Sketch]
) -> tuple[DriftFinding, ...]:
    """Every (cohort, feature) with enough values on both sides, distances and verdict; pure.

    Each cohort is held against the one of its accepted populations that is nearest over the counted features.
    """
    populations = reference.populations(policy.min_window_events)
    compared: dict[str, list[str]] = defaultdict(list)
    for (cohort, feature), sketch in sorted(window.items()):
        known = reference.sketches.get((cohort, feature))
        if feature not in DRIFT_FEATURES or known is None:
            continue
        if sketch.n >= policy.min_window_events and known.n >= policy.min_reference_clips:
            compared[cohort].append(feature)
    nearest: dict[tuple[str, str], Distance] = {}
    for cohort, features in compared.items():
        keys = [(cohort, feature) for feature in features]
        candidates = [{key: distance(known[key], window[key]) for key in keys} for known in populations]
        nearest.update(candidates[int(np.argmin([_counted_ks(policy, found) for found in candidates]))])
    adjusted = q_values([d.p_value for d in nearest.values()])
    return tuple(_finding(policy, key, d, q) for (key, d), q in zip(nearest.items(), adjusted, strict=True))


def floors_for(policy: DriftPolicy, cohort: str) -> Floors:
    """A cohort has fewer speakers than everyone, so it must be further off."""
    return policy.floors if cohort == EVERYONE else policy.floors.scaled(policy.cohort_floor_factor)


def drifted_cohorts(policy: DriftPolicy, findings: Sequence[DriftFinding]) -> tuple[str, ...]:
    """Cohorts in which at least `min_features` counted features have drifted, `all` first."""
    counts = Counter(f.cohort for f in findings if f.drifted and f.feature not in policy.uncounted)
    return tuple(
        sorted(
            (c for c, n in counts.items() if n >= policy.min_features), key=lambda cohort: (cohort != EVERYONE, cohort)
        )
    )


def close_superseded(store: Store, kind: IncidentKind) -> str:
    """Close incidents of models that are no longer live; says which, or nothing."""
    release = live(store)
    notes = []
    for incident in open_incidents(store, kind):
        if release is not None and incident.model_version != release.model_version:
            close_incident(store, incident.incident_id, f"{release.model_version} is live instead")
            notes.append(f"{incident.incident_id} closed: {release.model_version} is live instead")
    return "; ".join(notes)


def cooling_down(store: Store, policy: DriftPolicy, kind: IncidentKind) -> str | None:
    """Until when no new incident of `kind` is opened, or None."""
    closed = last_closed_at(store, kind)
    if closed is None:
        return None
    until = closed + timedelta(hours=policy.cooldown_hours)
    return f"until {until.isoformat()}" if store.now() < until else None


def _counted_ks(policy: DriftPolicy, found: dict[tuple[str, str], Distance]) -> float:
    return sum(d.ks for (_, feature), d in found.items() if feature not in policy.uncounted)


def _finding(policy: DriftPolicy, key: tuple[str, str], d: Distance, q_value: float) -> DriftFinding:
    cohort, feature = key
    floors = floors_for(policy, cohort)
    return DriftFinding(
        feature=feature,
        cohort=cohort,
        psi=d.psi,
        ks=d.ks,
        js=d.js,
        p_value=d.p_value,
        q_value=q_value,
        reference_n=d.reference_n,
        window_n=d.window_n,
        drifted=q_value <= policy.false_discovery_rate and _reaches(d, floors),
    )


def _reaches(d: Distance | DriftFinding, floors: Floors) -> bool:
    return d.psi >= floors.psi and d.ks >= floors.ks and d.js >= floors.js


def _status(policy: DriftPolicy, findings: Sequence[DriftFinding], drifted: Sequence[str], devices: int) -> DriftStatus:
    if not any(f.cohort == EVERYONE for f in findings) or devices < policy.min_devices:
        return DriftStatus.TOO_LITTLE
    if drifted:
        return DriftStatus.DRIFTED
    counted = [f for f in findings if f.feature not in policy.uncounted]
    near = [f for f in counted if _reaches(f, floors_for(policy, f.cohort).scaled(policy.clear_share))]
    return DriftStatus.WITHIN_FLOORS if len(near) >= policy.min_features else DriftStatus.CLEAR


def _cohorts_to_report(store: Store, report: DriftReport) -> tuple[str, ...]:
    """Everyone, where everyone drifted (now, or in the incident that is open): its cohorts are the same cause."""
    known = any(i.detail.get("cohort") == EVERYONE for i in open_incidents(store, IncidentKind.INPUT_DRIFT))
    return (EVERYONE,) if known or EVERYONE in report.drifted_cohorts else report.drifted_cohorts


def _open(store: Store, report: DriftReport, cohort: str) -> Incident:
    """Everyone drifted: train again. One cohort drifted: somebody should look."""
    drifted = sorted((f for f in report.of(cohort) if f.drifted), key=lambda f: -f.psi)
    figures = "; ".join(f"{f.feature} PSI {f.psi:.2f} KS {f.ks:.2f} JS {f.js:.2f}" for f in drifted)
    return open_incident(
        store,
        kind=IncidentKind.INPUT_DRIFT,
        cause={"model_version": report.model_version, "cohort": cohort},
        model_version=report.model_version,
        action=Action.RETRAIN if cohort == EVERYONE else Action.OBSERVE,
        summary=f"inputs of {cohort} on {report.day} are not what {report.model_version} was trained on: {figures}",
        detail=_evidence(store, report, cohort),
    )


def _evidence(store: Store, report: DriftReport, cohort: str) -> dict[str, Any]:
    return {
        "day": report.day,
        "cohort": cohort,
        "dataset_version": report.dataset_version,
        "drifted_features": sorted(f.feature for f in report.of(cohort) if f.drifted),
        "features": {
            f.feature: {"psi": f.psi, "ks": f.ks, "js": f.js, "q_value": f.q_value, "drifted": f.drifted}
            for f in report.of(cohort)
        },
        "drifted_cohorts": list(report.drifted_cohorts),
        "traffic": {"events": report.events, "devices": report.devices},
        "flags": flag_state(live(store), rolling_out(store)),
    }


def flag_state(*releases: ReleaseView | None) -> list[dict[str, Any]]:
    """What the fleet was being served when the evidence was taken."""
    return [
        {
            "release_id": release.release_id,
            "model_version": release.model_version,
            "bundle_digest": release.bundle_digest,
            "state": release.state.value,
            "exposure_percent": release.exposure_percent,
        }
        for release in releases
        if release is not None
    ]


def _close_cleared(store: Store, policy: DriftPolicy, day: str) -> None:
    recent = reports_before(store, DRIFT, day, DriftReport, policy.clear_reports)
    if len(recent) < policy.clear_reports or any(report.status is not DriftStatus.CLEAR for report in recent):
        return
    for incident in open_incidents(store, IncidentKind.INPUT_DRIFT):
        close_incident(store, incident.incident_id, f"clear in the last {policy.clear_reports} reports, up to {day}")
