"""Which days an open incident wants triaged again: those with captures that the ordinary budget left unselected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select

from voice_pipeline.labeling.routing import REVIEWED_ROUTES
from voice_pipeline.labeling.triage import labeling_incident
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.labeling_policy import LabelingPolicy
from voice_pipeline.schema.monitoring import Incident
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, triage


@dataclass(frozen=True)
class Retriage:
    """One day to triage again because of `incident_id`, with `unselected` captures still waiting."""

    day: str
    incident_id: str
    unselected: int

    @property
    def run_key(self) -> str:
        return digest([self.incident_id, self.day, self.unselected])


def days_to_retriage(store: Store, policy: LabelingPolicy, incidents: Sequence[Incident]) -> list[Retriage]:
    """Days, oldest first, with reviewable captures that nobody was asked about and an incident that asks for them."""
    statement = (
        select(triage.c.capture_date, func.count())
        .join(clips, clips.c.clip_id == triage.c.clip_id)
        .where(
            triage.c.selected.is_(False),
            triage.c.route.in_([route.value for route in REVIEWED_ROUTES]),
            clips.c.erased_at.is_(None),
            clips.c.hypothesis.is_not(None),
        )
        .group_by(triage.c.capture_date)
        .order_by(triage.c.capture_date)
    )
    with store.database.read() as connection:
        waiting = connection.execute(statement).all()
    found = []
    for day, count in waiting:
        incident = labeling_incident(policy, incidents, day)
        if incident is not None:
            found.append(Retriage(day, incident.incident_id, count))
    return found
