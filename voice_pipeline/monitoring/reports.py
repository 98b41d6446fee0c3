"""One stored report a kind and day; computing it again replaces it."""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import select

from voice_pipeline.schema.base import Record
from voice_pipeline.schema.canonical import digest
from voice_pipeline.store.database import upsert
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import reports as table

R = TypeVar("R", bound=Record)

WINDOWS, DRIFT, CONCEPT, QUALITY = "windows", "drift", "concept_drift", "quality"
JUDGED = (DRIFT, CONCEPT, QUALITY)


def store_report(store: Store, kind: str, day: str, report: Record) -> str:
    """Keep `report` as the report of its kind and day; returns its digest."""
    content: dict[str, Any] = report.model_dump(mode="json")
    row = {"kind": kind, "day": day, "digest": digest(content), "report": content, "at": store.now().isoformat()}
    with store.database.write() as connection:
        upsert(connection, table, row)
    return str(row["digest"])


def newest_report(store: Store, kind: str, model: type[R]) -> R | None:
    """The report of that kind which was written last, or None."""
    statement = select(table.c.report).where(table.c.kind == kind).order_by(table.c.at.desc(), table.c.day.desc())
    found = store.database.scalar(statement.limit(1))
    return model.model_validate(found) if found is not None else None


def reports_before(store: Store, kind: str, day: str, model: type[R], limit: int) -> list[R]:
    """Up to `limit` reports of that kind for `day` and the days before it, newest day first."""
    statement = select(table.c.report).where(table.c.kind == kind, table.c.day <= day).order_by(table.c.day.desc())
    with store.database.read() as connection:
        found = connection.execute(statement.limit(limit)).scalars().all()
    return [model.model_validate(content) for content in found]
