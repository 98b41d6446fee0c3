"""Triage of one capture day: every clip gets a route, a priority, a recorded inclusion probability and a yes or no.

Promises:
- A clip whose consent does not allow review is never selected.
- The day's budget holds however often and however concurrently a day is triaged: read, draw and write are one
  transaction.
- Running again with nothing new changes nothing; a clip once selected stays selected.
- At least 1 % of all usable clips, whatever their score, are drawn at random (the audit stream).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from sqlalchemy import Connection, func, or_, select

from voice_pipeline.labeling.confidence import disagrees
from voice_pipeline.labeling.routing import Candidate, Coverage, Routed, Signals, originals, route
from voice_pipeline.labeling.sampling import draw, inclusion_probabilities, uniform
from voice_pipeline.labeling.signals import read_signals
from voice_pipeline.schema.labeling_policy import LabelingPolicy
from voice_pipeline.schema.monitoring import Action, Incident, IncidentKind
from voice_pipeline.speech.normalise import plain
from voice_pipeline.store.database import upsert
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, consents, labels
from voice_pipeline.store.tables import triage as table

LABELING_KINDS = frozenset({IncidentKind.INPUT_DRIFT, IncidentKind.CONCEPT_DRIFT})
LABELING_ACTIONS = frozenset({Action.LABEL, Action.RETRAIN})
INCIDENT_REASON = "incident:"
BUDGET_REASON = "budget"
AUDIT_REASON = "audit_stream"
MISREPORTED_REASON = "confidence_misreported"


@dataclass(frozen=True)
class TriageSummary:
    """One day after triage. `selected` counts clips chosen so far, `newly_selected` those of this run."""

    day: str
    clips: int
    selected: int
    newly_selected: int
    audited: int
    routes: dict[str, int]
    incident_id: str | None


def labeling_incident(policy: LabelingPolicy, incidents: Sequence[Incident], day: str) -> Incident | None:
    """The oldest open incident that asks for labels of clips captured on `day`."""
    lookback = timedelta(days=policy.budget.incident_lookback_days)
    for incident in sorted(incidents, key=lambda i: (i.opened_at, i.incident_id)):
        asks = incident.kind in LABELING_KINDS and incident.action in LABELING_ACTIONS
        if asks and date.fromisoformat(day) >= incident.opened_at.date() - lookback:
            return incident
    return None


def triage_day(store: Store, policy: LabelingPolicy, day: str, incidents: Sequence[Incident]) -> TriageSummary:
    """Triage all clips captured on `day` (YYYY-MM-DD), within the budget that `policy` and open incidents give."""
    incident = labeling_incident(policy, incidents, day)
    signals = read_signals(store, day)
    with store.database.write() as connection:
        related = _candidates(connection, day, signals)
        routed = _route_all(policy, related, _coverage(connection), day)
        rows = _decide(policy, day, routed, incident)
        for row in rows:
            upsert(connection, table, {**row, "capture_date": day, "at": store.now().isoformat()})
        stored = connection.execute(select(table).where(table.c.capture_date == day)).mappings().all()
    return TriageSummary(
        day=day,
        clips=len(stored),
        selected=sum(row["selected"] for row in stored),
        newly_selected=sum(row["selected"] for row in rows),
        audited=sum(row["audit"] for row in stored),
        routes=dict(sorted(Counter(row["route"] for row in stored).items())),
        incident_id=incident.incident_id if incident else None,
    )


def _candidates(connection: Connection, day: str, signals: Mapping[str, Signals]) -> list[Candidate]:
    """Clips of the day, and those of other days with the same samples: they may be the originals."""
    same = select(clips.c.content_sha256).where(clips.c.capture_date == day)
    statement = (
        select(
            clips,
            consents.c.scopes,
            consents.c.revoked_at,
            table.c.selected,
            table.c.reasons,
            table.c.inclusion_probability,
        )
        .outerjoin(consents, consents.c.consent_id == clips.c.consent_id)
        .outerjoin(table, table.c.clip_id == clips.c.clip_id)
        .where(clips.c.erased_at.is_(None))
        .where(or_(clips.c.capture_date == day, clips.c.content_sha256.in_(same)))
    )
    found = connection.execute(statement).mappings().all()
    return [_candidate(row, signals.get(row["clip_id"], Signals())) for row in found]


def _candidate(row: Mapping[Any, Any], signals: Signals) -> Candidate:
    in_force = row["scopes"] is not None and row["revoked_at"] is None
    return Candidate(
        clip_id=row["clip_id"],
        capture_date=row["capture_date"],
        content_sha256=row["content_sha256"],
        received_at=row["received_at"],
        duration_s=row["duration_s"],
        cohort=f"{row['device_class']}|{row['microphone']}|{row['locale']}",
        accent=row["accent"],
        failure_mode=row["failure_mode"],
        hypothesis=row["hypothesis"],
        confidence=row["confidence"] if signals.confidence is None else signals.confidence,
        scopes=frozenset(row["scopes"]) if in_force else frozenset(),
        signals=signals,
        selected=bool(row["selected"]),
        in_budget=any(reason == BUDGET_REASON or reason.startswith(INCIDENT_REASON) for reason in row["reasons"] or ()),
        inclusion_probability=row["inclusion_probability"] or 0.0,
        misreported=disagrees(row["confidence"], signals.confidence),
    )


def _coverage(connection: Connection) -> Coverage:
    """What the labels so far cover."""
    labelled = select(clips).join(labels, labels.c.clip_id == clips.c.clip_id).subquery()
    by_accent = select(labelled.c.accent, func.count()).group_by(labelled.c.accent)
    technical = (labelled.c.device_class, labelled.c.microphone, labelled.c.locale)
    by_cohort = select(*technical, func.count()).group_by(*technical)
    return Coverage(
        accents=dict(connection.execute(by_accent).all()),
        cohorts={"|".join(row[:3]): row[3] for row in connection.execute(by_cohort)},
        vocabulary=frozenset(
            w for text in connection.execute(select(labels.c.text)).scalars() for w in plain(text).split()
        ),
    )


def _route_all(
    policy: LabelingPolicy, related: Sequence[Candidate], coverage: Coverage, day: str
) -> list[tuple[Candidate, Routed]]:
    """Routes of the day's clips that are not selected yet, and of the selected ones (to count what was spent)."""
    stands_for = originals(related)
    routed = []
    for clip in related:
        if clip.capture_date != day:
            continue
        original = stands_for.get(clip.content_sha256)
        duplicate_of = original if original != clip.clip_id else None
        routed.append((clip, route(policy, clip, coverage, duplicate_of)))
    return routed


def _decide(
    policy: LabelingPolicy, day: str, routed: Sequence[tuple[Candidate, Routed]], incident: Incident | None
) -> list[dict[str, Any]]:
    """Triage rows of all clips that were not selected before. The audit stream and the budget draw independently."""
    fresh = [(clip, to) for clip, to in routed if not clip.selected]
    chances: dict[str, float] = {}
    drawn: set[str] = set()
    captures_per_day = policy.budget.incident_per_day if incident else policy.budget.captures_per_day
    for heard, budget in ((False, policy.budget.imports_per_day), (True, captures_per_day)):
        spent = sum(c.in_budget and c.heard == heard for c, _ in routed)
        sizes = {c.clip_id: to.priority for c, to in fresh if to.reviewed and c.heard == heard}
        pool = inclusion_probabilities(sizes, max(0, budget - spent))
        chances |= pool
        drawn |= draw(pool, policy.seed, f"budget|{day}")
    return [_row(policy, clip, to, clip.clip_id in drawn, chances, incident) for clip, to in fresh]


def _row(
    policy: LabelingPolicy,
    clip: Candidate,
    to: Routed,
    in_budget: bool,
    chances: Mapping[str, float],
    incident: Incident | None,
) -> dict[str, Any]:
    audit = to.auditable and uniform(policy.seed, "audit", clip.clip_id) < policy.budget.audit_share
    missed = 1.0 - max(clip.inclusion_probability, policy.budget.audit_share if to.auditable else 0.0)
    causes = [AUDIT_REASON] if audit else []
    if in_budget:
        causes.append(f"{INCIDENT_REASON}{incident.incident_id}" if incident and clip.heard else BUDGET_REASON)
    return {
        "clip_id": clip.clip_id,
        "route": to.route.value,
        "priority": to.priority,
        "inclusion_probability": 1.0 - missed * (1.0 - chances.get(clip.clip_id, 0.0)),
        "audit": audit,
        "selected": audit or in_budget,
        "reasons": [*to.reasons, *([MISREPORTED_REASON] if clip.misreported else []), *causes],
    }
