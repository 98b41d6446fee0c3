"""Where devices report: scalars in batches, each event counted once however often it is sent."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy import Connection

from voice_pipeline.schema.base import Record
from voice_pipeline.schema.telemetry import TelemetryEvent
from voice_pipeline.store.database import insert_new, upsert
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import devices, telemetry

BATCH = 5_000


class TelemetryBatch(Record):
    """Events of one device, or of many behind one gateway."""

    events: tuple[TelemetryEvent, ...] = Field(max_length=BATCH)


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
    with store.database.write() as connection:
        new = insert_new(connection, telemetry, [_row(event) for event in events])
        if new:
            _remember_devices(connection, events)
    return new


def _row(event: TelemetryEvent) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "day": f"{event.at:%Y-%m-%d}",
        "at": event.at.isoformat(),
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
        at = event.at.isoformat()
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
