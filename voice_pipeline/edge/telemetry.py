"""Where devices report: scalars in batches, each event counted once however often it is sent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from pydantic import Field, field_validator
from sqlalchemy import Connection, insert, select

from voice_pipeline.capture.days import partition_day
from voice_pipeline.schema.base import Record
from voice_pipeline.schema.telemetry import TelemetryEvent
from voice_pipeline.store.database import upsert
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import devices, telemetry

BATCH = 5_000
LOOKUP = 500


class TelemetryBatch(Record):
    """Events of one device, or of many behind one gateway."""

    events: tuple[TelemetryEvent, ...] = Field(max_length=BATCH)

    @field_validator("events")
    @classmethod
    def _finite(cls, events: tuple[TelemetryEvent, ...]) -> tuple[TelemetryEvent, ...]:
        for event in events:
            if not all(math.isfinite(value) for value in dict(event).values() if isinstance(value, float)):
                raise ValueError(f"event {event.event_id} has a figure that is no finite number")
        return events


def router(store: Store) -> APIRouter:
    """Route `/v1/telemetry` on `store`."""
    routes = APIRouter(tags=["telemetry"])

    @routes.post("/v1/telemetry", status_code=202)
    def report(batch: TelemetryBatch) -> dict[str, int]:
        """Take up to 5,000 events; answers only when they are on disk."""
        new = record(store, batch.events)
        return {"accepted": new, "duplicates": len(batch.events) - new}

    return routes


def record(store: Store, events: tuple[TelemetryEvent, ...]) -> int:
    """Store events and what each device last said it runs; returns how many were new."""
    received = store.now()
    events = tuple(_on_our_clock(event, received) for event in events)
    rows = {event.event_id: _row(event, received) for event in events}
    with store.database.write() as connection:
        fresh = [rows[event_id] for event_id in rows.keys() - _known(connection, list(rows))]
        if fresh:
            connection.execute(insert(telemetry), fresh)
            _remember_devices(connection, events)
    return len(fresh)


def _known(connection: Connection, event_ids: Sequence[str]) -> set[str]:
    return {
        event_id
        for start in range(0, len(event_ids), LOOKUP)
        for event_id in connection.execute(
            select(telemetry.c.event_id).where(telemetry.c.event_id.in_(event_ids[start : start + LOOKUP]))
        ).scalars()
    }


def _on_our_clock(event: TelemetryEvent, received: datetime) -> TelemetryEvent:
    """Nothing happens later than we hear of it: a clock that runs ahead must not silence the device's later reports."""
    return event if event.at <= received else event.model_copy(update={"at": received})


def _row(event: TelemetryEvent, received: datetime) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "day": partition_day(event.at, received),
        "received_at": received.astimezone(UTC).isoformat(),
        "at": event.at.astimezone(UTC).isoformat(),
        "device_id": event.device_id,
        "model_version": event.model_version,
        "release_id": event.release_id,
        "event": event.model_dump(mode="json"),
    }


def _remember_devices(connection: Connection, events: tuple[TelemetryEvent, ...]) -> None:
    """Upsert each device with its newest event of the batch; a late batch never overwrites newer knowledge."""
    newest = {event.device_id: event for event in sorted(events, key=lambda e: e.at)}
    known = {
        row.device_id: row
        for row in connection.execute(devices.select().where(devices.c.device_id.in_(sorted(newest))))
    }
    for device_id, event in newest.items():
        at = event.at.astimezone(UTC).isoformat()
        before = known.get(device_id)
        if before is not None and before.last_seen >= at:
            continue
        upsert(
            connection,
            devices,
            {
                "device_id": device_id,
                "context": event.context.model_dump(mode="json"),
                "model_version": event.model_version,
                "first_seen": before.first_seen if before is not None else at,
                "last_seen": at,
            },
        )
