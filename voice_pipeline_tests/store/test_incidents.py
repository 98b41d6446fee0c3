"""Incidents: one cause, one open incident, also when two see it at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from voice_pipeline.schema.monitoring import Action, Incident, IncidentKind
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.incidents import (
    UnknownIncidentError,
    close_incident,
    incidents,
    last_closed_at,
    open_incident,
    open_incidents,
)
from voice_pipeline.store.store import Store


def see(
    store: Store, cause: str = "cause", kind: IncidentKind = IncidentKind.INPUT_DRIFT, psi: float = 1.0
) -> Incident:
    return open_incident(store, kind, {"what": cause}, "m-1", Action.RETRAIN, f"psi {psi}", {"psi": psi})


def test_the_same_cause_is_one_incident_however_its_figures_change(store: Store) -> None:
    first = see(store, psi=1.0)
    assert see(store, psi=2.0) == first
    assert first.incident_id == "inc-20261102-001"


def test_other_causes_and_other_kinds_are_other_incidents(store: Store) -> None:
    ids = {see(store, "a").incident_id, see(store, "b").incident_id, see(store, "a", IncidentKind.QUALITY).incident_id}
    assert len(ids) == len(open_incidents(store)) == 3
    assert [i.kind for i in open_incidents(store, IncidentKind.QUALITY)] == [IncidentKind.QUALITY]


def test_many_who_see_a_cause_at_once_open_one_incident(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: see(store).incident_id, range(24)))
    assert set(found) == {"inc-20261102-001"}
    assert len(incidents(store)) == 1


def test_a_cause_that_returns_after_its_incident_closed_opens_a_new_one(store: Store, clock: ManualClock) -> None:
    first = see(store)
    assert close_incident(store, first.incident_id, "mended")
    assert not close_incident(store, first.incident_id, "mended again")
    clock.advance(timedelta(days=1))
    second = see(store)
    assert second.incident_id == "inc-20261103-001"
    assert second.cause_digest != first.cause_digest
    assert [i.incident_id for i in open_incidents(store)] == [second.incident_id]
    assert incidents(store)[0].detail["closed_because"] == "mended"
    assert last_closed_at(store, IncidentKind.INPUT_DRIFT) == clock.now() - timedelta(days=1)
    assert last_closed_at(store, IncidentKind.QUALITY) is None


def test_an_unknown_incident_is_named(store: Store) -> None:
    with pytest.raises(UnknownIncidentError, match="inc-x"):
        close_incident(store, "inc-x", "")
