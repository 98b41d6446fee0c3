"""A day of telemetry as mergeable sketches, one per (cohort, feature, model version).

Promise: memory and stored bytes depend on the number of cohorts, features and models, not on traffic. Computing a day
again replaces its windows in one transaction, so a reader sees the old ones or the new. Events are scalars; nothing
here has seen audio or text.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import delete, func, insert, select

from voice_pipeline.monitoring.errors import DamagedWindowError
from voice_pipeline.monitoring.reports import WINDOWS, store_report
from voice_pipeline.schema.base import Record
from voice_pipeline.schema.telemetry import DRIFT_FEATURES
from voice_pipeline.stats.sketches import DamagedSketchError, Sketch
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import telemetry, telemetry_windows

WINDOW_FEATURES = (*DRIFT_FEATURES, "confidence", "latency_ms")
EVERYONE = "all"
COHORT_KEYS = ("device_class", "microphone", "locale")
CHUNK = 5000

Key = tuple[str, str, str]  # cohort, feature, model version


class WindowSummary(Record):
    """What was summarised of one day. `ignored` counts values that were not finite."""

    day: str
    events: int
    devices: int
    models: tuple[str, ...]
    cohorts: tuple[str, ...]
    windows: int
    sketch_bytes: int
    ignored: int


def cohorts_of(context: dict[str, Any]) -> tuple[str, ...]:
    """The cohorts an event belongs to: everyone, and one a technical trait, as `trait=value`."""
    return (EVERYONE, *(f"{key}={context[key]}" for key in COHORT_KEYS if context.get(key)))


def build_windows(store: Store, day: str) -> WindowSummary:
    """Summarise the telemetry of `day` (YYYY-MM-DD) and replace its stored windows."""
    sketches: dict[Key, Sketch] = {}
    events = 0
    devices: set[str] = set()
    for chunk in telemetry_chunks(store, day):
        events += len(chunk)
        devices.update(event["device_id"] for event in chunk)
        _add(sketches, chunk)
    rows = [
        {"day": day, "cohort": c, "feature": f, "model_version": m, "n": sketch.n, "sketch": sketch.to_bytes()}
        for (c, f, m), sketch in sorted(sketches.items())
    ]
    stored_bytes = sum(len(sketch.to_bytes()) for sketch in sketches.values())
    with store.database.write() as connection:
        connection.execute(delete(telemetry_windows).where(telemetry_windows.c.day == day))
        if rows:
            connection.execute(insert(telemetry_windows), rows)
    summary = WindowSummary(
        day=day,
        events=events,
        devices=len(devices),
        models=tuple(sorted({model for _, _, model in sketches})),
        cohorts=tuple(sorted({cohort for cohort, _, _ in sketches})),
        windows=len(rows),
        sketch_bytes=stored_bytes,
        ignored=sum(s.ignored for (cohort, _, _), s in sketches.items() if cohort == EVERYONE),
    )
    store_report(store, WINDOWS, day, summary)
    return summary


def telemetry_chunks(store: Store, day: str, model_version: str | None = None) -> Iterator[list[dict[str, Any]]]:
    """Events of a day as plain dicts, in lists of at most `CHUNK`, oldest first."""
    statement = select(telemetry.c.event).where(telemetry.c.day == day).order_by(telemetry.c.at, telemetry.c.event_id)
    if model_version is not None:
        statement = statement.where(telemetry.c.model_version == model_version)
    with store.database.read() as connection:
        for part in connection.execution_options(yield_per=CHUNK).execute(statement).scalars().partitions():
            yield [event if isinstance(event, dict) else json.loads(event) for event in part]


def read_window(store: Store, day: str, model_version: str) -> dict[tuple[str, str], Sketch]:
    """Sketches of one day and model by (cohort, feature).

    Raises:
        DamagedWindowError: a stored sketch cannot be read.
    """
    table = telemetry_windows
    rows = store.database.rows(select(table).where(table.c.day == day, table.c.model_version == model_version))
    try:
        return {(row["cohort"], row["feature"]): Sketch.from_bytes(row["sketch"]) for row in rows}
    except DamagedSketchError as error:
        raise DamagedWindowError(f"windows of {day}: {error}; materialise telemetry_windows for it") from error


def events_by_day(store: Store, days: Sequence[str]) -> dict[str, int]:
    """Number of stored events of each of `days`; days without any are absent."""
    statement = select(telemetry.c.day, func.count()).where(telemetry.c.day.in_(list(days))).group_by(telemetry.c.day)
    with store.database.read() as connection:
        return {day: int(count) for day, count in connection.execute(statement)}


def device_count(store: Store, day: str, model_version: str) -> int:
    """How many devices reported from `model_version` on `day`."""
    statement = select(func.count(telemetry.c.device_id.distinct())).where(
        telemetry.c.day == day, telemetry.c.model_version == model_version
    )
    return int(store.database.scalar(statement) or 0)


def _add(sketches: dict[Key, Sketch], events: list[dict[str, Any]]) -> None:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        for cohort in cohorts_of(event["context"]):
            groups[cohort, event["model_version"]].append(event)
    for (cohort, model), members in groups.items():
        for feature in WINDOW_FEATURES:
            sketches.setdefault((cohort, feature, model), Sketch()).update([event[feature] for event in members])
