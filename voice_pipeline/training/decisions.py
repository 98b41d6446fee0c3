"""Whether to retrain: the situation is read from the store, the judgement is a pure function of it and the policy.

Promises: one cause is approved at most once; a refusal says why and is reconsidered at every look; the monthly budget
is never planned beyond; an incident's labels never wait for a cooldown.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select

from voice_pipeline.schema.monitoring import Action
from voice_pipeline.schema.retrain_policy import RetrainCause, RetrainDecision, RetrainPolicy, RetrainTrigger
from voice_pipeline.store.incidents import open_incidents
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import batches, dataset_clips, dataset_versions, models, retrain_decisions

REQUEST = "retrain_request"
INCIDENT_PREFIX = "incident:"


@dataclass(frozen=True)
class DatasetFact:
    """The newest dataset version: clips of train and dev speakers that the last planned dataset had not, and the
    incidents that its new batches answer and no model was planned for yet.
    """

    dataset_version: str
    planned_for: bool
    new_clips: int
    incidents: tuple[str, ...]


@dataclass(frozen=True)
class Situation:
    """All that a retrain decision looks at.

    Attributes:
        waiting_incidents: open incidents that ask for a retrain and that no plan has joined yet.
        requests: manual requests in order of their number.
        approved: decision ids that were approved before.
        last_planned_at: of the newest plan that nobody asked for.
        minutes_spent: training minutes of this month, unfinished plans counted with `minutes_expected`.
    """

    now: datetime
    dataset: DatasetFact | None
    waiting_incidents: tuple[str, ...]
    requests: tuple[RetrainCause, ...]
    approved: frozenset[str]
    last_planned_at: datetime | None
    minutes_spent: float
    minutes_expected: float


def decide(store: Store, policy: RetrainPolicy) -> list[RetrainDecision]:
    """Decisions about every cause that is not approved yet, in the order in which they should be acted upon."""
    return judge(policy, observe(store))


def judge(policy: RetrainPolicy, situation: Situation) -> list[RetrainDecision]:
    """The policy applied to a situation. Pure."""
    decisions: list[RetrainDecision] = []
    minutes = situation.minutes_spent
    for cause in _causes(situation):
        if cause.digest in situation.approved:
            continue
        refusal = _refusal(policy, situation, cause, minutes)
        if refusal is None:
            minutes += situation.minutes_expected
        reason = refusal or _grounds(situation, cause)
        decisions.append(RetrainDecision(cause=cause, approved=refusal is None, reason=reason, at=situation.now))
    return decisions


def _causes(situation: Situation) -> list[RetrainCause]:
    causes: list[RetrainCause] = []
    dataset = situation.dataset
    joined: tuple[str, ...] = ()
    if dataset is not None and not dataset.planned_for:
        joined = dataset.incidents
        causes.append(
            RetrainCause(
                trigger=RetrainTrigger.DATASET_VERSION, dataset_version=dataset.dataset_version, incidents=joined
            )
        )
    causes += [
        RetrainCause(trigger=RetrainTrigger.INCIDENT, incidents=(incident,))
        for incident in situation.waiting_incidents
        if incident not in joined
    ]
    return [*causes, *situation.requests]


def _refusal(policy: RetrainPolicy, situation: Situation, cause: RetrainCause, minutes: float) -> str | None:
    """Why `cause` gets no model now, or None."""
    if not getattr(policy.triggers, cause.trigger.value):
        return f"the policy switches the trigger {cause.trigger.value} off"
    if cause.trigger is RetrainTrigger.INCIDENT:
        return "waits for a dataset version that holds the incident's labelled clips"
    if situation.dataset is None:
        return "there is no dataset version yet"
    if minutes + situation.minutes_expected > policy.monthly_training_minutes:
        return (
            f"{minutes:.1f} min trained or planned this month and {situation.minutes_expected:.1f} expected exceed "
            f"the budget of {policy.monthly_training_minutes:g} min"
        )
    if cause.trigger is RetrainTrigger.MANUAL:
        return None
    urgent = bool(cause.incidents) and policy.triggers.incident
    needed = policy.min_incident_clips if urgent else policy.min_new_clips
    if situation.dataset.new_clips < needed:
        return f"{situation.dataset.new_clips} new clips to learn from, {needed} are needed"
    if not urgent and situation.last_planned_at is not None:
        ready = situation.last_planned_at + timedelta(hours=policy.cooldown_hours)
        if situation.now < ready:
            return f"cooldown of {policy.cooldown_hours:g} h lasts until {ready:%Y-%m-%d %H:%M} UTC"
    return None


def _grounds(situation: Situation, cause: RetrainCause) -> str:
    if cause.trigger is RetrainTrigger.MANUAL or situation.dataset is None:
        return cause.label
    return f"{cause.label}: {situation.dataset.new_clips} new clips to learn from"


def observe(store: Store) -> Situation:
    """The situation as the store tells it now."""
    planned = store.database.rows(select(models).order_by(models.c.planned_at))
    recorded = store.database.rows(select(retrain_decisions))
    automatic = [row["planned_at"] for row in planned if row["cause"].get("trigger") != RetrainTrigger.MANUAL.value]
    answered = {incident for row in planned for incident in row["cause"].get("incidents", ())}
    spent, expected = _minutes(store, [dict(row) for row in planned])
    return Situation(
        now=store.now(),
        dataset=_newest_dataset(store, answered),
        waiting_incidents=tuple(
            incident.incident_id
            for incident in open_incidents(store)
            if incident.action is Action.RETRAIN and incident.incident_id not in answered
        ),
        requests=requests(store),
        approved=frozenset(row["decision_id"] for row in recorded if row["approved"]),
        last_planned_at=datetime.fromisoformat(max(automatic)) if automatic else None,
        minutes_spent=spent,
        minutes_expected=expected,
    )


def requests(store: Store) -> tuple[RetrainCause, ...]:
    """All manual requests, in order."""
    return tuple(RetrainCause.model_validate(line.payload) for line in store.ledger.lines(kind=REQUEST))


def _newest_dataset(store: Store, answered: set[str]) -> DatasetFact | None:
    newest = store.database.row(select(dataset_versions).order_by(dataset_versions.c.sequence.desc()))
    if newest is None:
        return None
    planned = store.database.row(
        select(dataset_versions)
        .where(dataset_versions.c.dataset_version.in_(select(models.c.dataset_version)))
        .order_by(dataset_versions.c.sequence.desc())
    )
    known = set(planned["batches"]) if planned else set()
    return DatasetFact(
        dataset_version=newest["dataset_version"],
        planned_for=planned is not None and planned["sequence"] >= newest["sequence"],
        new_clips=len(_learnable(store, newest) - (_learnable(store, planned) if planned else set())),
        incidents=tuple(i for i in _incidents_of(store, set(newest["batches"]) - known) if i not in answered),
    )


def _learnable(store: Store, dataset: Any) -> set[str]:
    rows = store.database.rows(
        select(dataset_clips.c.clip_id).where(
            dataset_clips.c.dataset_version == dataset["dataset_version"], dataset_clips.c.split != "test"
        )
    )
    return {row["clip_id"] for row in rows}


def _incidents_of(store: Store, batch_ids: set[str]) -> tuple[str, ...]:
    """Incidents that the batches' causes name, sorted."""
    rows = store.database.rows(select(batches.c.cause).where(batches.c.batch_id.in_(sorted(batch_ids))))
    causes = {row["cause"] for row in rows}
    return tuple(sorted(c.removeprefix(INCIDENT_PREFIX) for c in causes if c.startswith(INCIDENT_PREFIX)))


def _minutes(store: Store, planned: list[dict[str, Any]]) -> tuple[float, float]:
    """Minutes spent or bound this month, and minutes one more run is expected to take (the mean of finished ones)."""
    minutes = [((row["metrics"] or {}).get("training_seconds") or 0.0) / 60 for row in planned]
    finished = [taken for taken in minutes if taken]
    expected = sum(finished) / len(finished) if finished else 0.0
    month = f"{store.now():%Y-%m}"
    spent = sum(
        taken or expected
        for row, taken in zip(planned, minutes, strict=True)
        if (row["trained_at"] or row["planned_at"]).startswith(month)
    )
    return spent, expected
