"""Incidents: one cause, one open incident, however often it is seen.

The cause is hashed together with the number of times it has come back after it was closed, and that digest is unique in
the table: two monitors that see the same thing at once, or a report that is computed again, find the incident that is
already open. A cause that returns after its incident was closed opens a new one, told apart by its `recurrence`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.ids import incident_id
from voice_pipeline.schema.monitoring import Action, Incident, IncidentKind
from voice_pipeline.store.errors import StoreError
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import incidents as table


class UnknownIncidentError(StoreError):
    """No incident has that id."""


def open_incident(
    store: Store,
    kind: IncidentKind,
    cause: Mapping[str, Any],
    model_version: str | None,
    action: Action,
    summary: str,
    detail: Mapping[str, Any],
) -> Incident:
    """The open incident of `cause`, made now if there is none.

    Args:
        cause: plain JSON that says what went wrong and where, without figures that change from look to look.
        detail: plain JSON evidence; kept as it was when the incident was opened.
    """
    with store.database.write() as connection:
        recurrence = 0
        while True:
            cause_digest = digest({"kind": kind, "cause": dict(cause), "recurrence": recurrence})
            found = connection.execute(select(table).where(table.c.cause_digest == cause_digest)).mappings().first()
            if found is None:
                break
            if found["closed_at"] is None:
                return _incident(found)
            recurrence += 1
        row = {
            "incident_id": _next_id(connection, store.now()),
            "kind": kind.value,
            "cause_digest": cause_digest,
            "model_version": model_version,
            "action": action.value,
            "summary": summary,
            "detail": {**detail, "cause": dict(cause), "recurrence": recurrence},
            "opened_at": store.now().isoformat(),
        }
        connection.execute(insert(table).values(**row))
        stored = connection.execute(select(table).where(table.c.cause_digest == cause_digest)).mappings().one()
        return _incident(stored)


def open_incidents(store: Store, kind: IncidentKind | None = None) -> list[Incident]:
    """Incidents that nobody has closed, oldest first."""
    statement = select(table).where(table.c.closed_at.is_(None)).order_by(table.c.opened_at, table.c.incident_id)
    if kind is not None:
        statement = statement.where(table.c.kind == kind.value)
    return [_incident(row) for row in store.database.rows(statement)]


def incidents(store: Store, kind: IncidentKind | None = None) -> list[Incident]:
    """All incidents, open and closed, oldest first."""
    statement = select(table).order_by(table.c.opened_at, table.c.incident_id)
    if kind is not None:
        statement = statement.where(table.c.kind == kind.value)
    return [_incident(row) for row in store.database.rows(statement)]


def last_closed_at(store: Store, kind: IncidentKind) -> datetime | None:
    """When the last incident of `kind` was closed; None if none ever was."""
    latest = store.database.scalar(select(func.max(table.c.closed_at)).where(table.c.kind == kind.value))
    return datetime.fromisoformat(latest) if latest else None


def close_incident(store: Store, incident_id: str, reason: str) -> bool:
    """Close an open incident, keeping `reason` in its detail; False if it was closed before.

    Raises:
        UnknownIncidentError: there is no such incident.
    """
    with store.database.write() as connection:
        row = connection.execute(select(table).where(table.c.incident_id == incident_id)).mappings().first()
        if row is None:
            raise UnknownIncidentError(
                f"incident {incident_id} does not exist; `voice-pipeline monitoring incidents` lists them"
            )
        if row["closed_at"] is not None:
            return False
        connection.execute(
            update(table)
            .where(table.c.incident_id == incident_id)
            .values(closed_at=store.now().isoformat(), detail={**row["detail"], "closed_because": reason})
        )
        return True


def _next_id(connection: Connection, now: datetime) -> str:
    prefix = incident_id(now.date(), 0)[:-3]
    used: Sequence[str] = (
        connection.execute(select(table.c.incident_id).where(table.c.incident_id.startswith(prefix))).scalars().all()
    )
    return incident_id(now.date(), max((int(name.removeprefix(prefix)) for name in used), default=0) + 1)


def _incident(row: RowMapping) -> Incident:
    return Incident.model_validate({name: row[name] for name in Incident.model_fields})
