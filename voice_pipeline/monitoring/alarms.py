"""What people are told: incidents as they open, runs that failed, checks that failed. Each cause is told once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from voice_pipeline.schema.monitoring import Action, Incident, IncidentKind
from voice_pipeline.store.alerts import deliver_pending, raise_alert
from voice_pipeline.store.incidents import open_incident, open_incidents
from voice_pipeline.store.store import Store


@dataclass(frozen=True)
class FailedCheck:
    """One evaluation of an asset check that did not pass."""

    run_id: str
    partition: str
    asset: str
    check: str
    description: str


def alert_incidents(store: Store) -> int:
    """Tell people about every open incident they have not heard of; returns how many were new."""
    return sum(_tell(store, incident) for incident in open_incidents(store))


def alert_failed_checks(store: Store, failed: Iterable[FailedCheck]) -> int:
    """Tell people about failed checks; returns how many were new.

    The same finding on the same partition is the same cause, whichever run found it again.
    """
    return sum(
        raise_alert(
            store,
            cause={
                "check": item.check,
                "asset": item.asset,
                "partition": item.partition,
                "finding": item.description,
            },
            title=f"check {item.check} of {item.asset} failed",
            body=f"{item.description or 'no description'} (run {item.run_id})",
        )
        for item in failed
    )


def alert_failed_run(store: Store, run_id: str, job: str, partition: str, error: str) -> Incident:
    """Open an incident for a failed run and tell people.

    The same job failing on the same partition again is the same cause while that incident is open.
    """
    incident = open_incident(
        store,
        kind=IncidentKind.PIPELINE_FAILURE,
        cause={"job": job, "partition": partition},
        model_version=None,
        action=Action.OBSERVE,
        summary=f"{job} failed{f' for {partition}' if partition else ''}: {error}",
        detail={"run_id": run_id, "job": job, "partition": partition, "error": error},
    )
    _tell(store, incident)
    return incident


def retry_deliveries(store: Store) -> int:
    """Try again what no address has taken yet; returns how many were delivered now."""
    return deliver_pending(store)


def _tell(store: Store, incident: Incident) -> bool:
    return raise_alert(
        store,
        cause={"incident": incident.incident_id},
        title=f"{incident.incident_id} {incident.kind.value} → {incident.action.value}",
        body=incident.summary,
    )
