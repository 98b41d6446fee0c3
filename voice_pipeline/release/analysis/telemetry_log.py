"""The telemetry that release tests read, kept in memory: a tick reads what is new and parses each event once.

Dictations come in the order in which they were **received**. Anytime-valid tests need an order that later news cannot
change; a device that reports late, or whose clock is off, would otherwise push its dictations in before others'.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Select, func, select

from voice_pipeline.schema.inference import InferenceMode
from voice_pipeline.store.ledger import Ledger
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import telemetry

logger = logging.getLogger(__name__)
_RECEIVED = func.coalesce(telemetry.c.received_at, telemetry.c.at)


@dataclass(frozen=True)
class Dictation:
    """What the tests read of one telemetry event. Shadow figures are None unless the candidate ran beside.

    `received`: when it reached us; `at`: when it was made, by the device's clock.
    `remote`: the edge answered, with the live model whatever the device's arm; such a one counts in neither.
    """

    at: datetime
    received: datetime
    device_id: str
    device_class: str
    app_version: str
    model_version: str
    words: int
    corrected_words: int
    latency_ms: float
    duration_s: float
    crashed: bool
    abandoned: bool
    fallback: bool
    remote: bool = False
    shadow_model_version: str | None = None
    shadow_corrected_words: int | None = None
    shadow_latency_ms: float | None = None


@dataclass
class _Known:
    """What this process read. `total` = rows of the table then, `last` = when the newest of them was received."""

    after: datetime
    total: int = 0
    last: str = ""
    ids: set[str] = field(default_factory=set)
    dictations: list[Dictation] = field(default_factory=list)


_known: WeakKeyDictionary[Ledger, _Known] = WeakKeyDictionary()


def dictations(store: Store, after: datetime) -> list[Dictation]:
    """All dictations that happened after an instant, in order of receipt. An event that cannot be read is left out
    and named in the log: it must not keep harm from being seen.
    """
    known = _known.get(store.ledger)
    if known is None or known.after != after:
        known = _Known(after)
    with store.database.read() as connection:
        total = int(connection.execute(select(func.count()).select_from(telemetry)).scalar() or 0)
        if not _caught_up(known, connection, total):  # rows were removed, or came with a time of receipt long past
            known = _Known(after)
            _caught_up(known, connection, total)
    _known[store.ledger] = known
    return known.dictations


def _caught_up(known: _Known, connection: Connection, total: int) -> bool:
    """Read what is new; whether `known` then holds every row there is."""
    if total == known.total:
        return True
    statement: Select[Any] = (
        select(telemetry.c.event_id, telemetry.c.event, telemetry.c.at, _RECEIVED.label("received"))
        .where(known.last <= _RECEIVED)
        .order_by(_RECEIVED, telemetry.c.at, telemetry.c.event_id)
    )
    rows = [row for row in connection.execute(statement) if row.event_id not in known.ids]
    if known.total + len(rows) != total:
        return False
    earliest = known.after.isoformat()
    found = [_readable(row.event_id, row.event, row.received) for row in rows if row.at > earliest]
    known.dictations = [*known.dictations, *(one for one in found if one is not None)]
    known.ids.update(row.event_id for row in rows)
    known.total = total
    known.last = max([known.last, *(row.received for row in rows)])
    return True


def _readable(event_id: str, event: dict[str, Any], received: str) -> Dictation | None:
    try:
        return _dictation(event, datetime.fromisoformat(received))
    except (KeyError, TypeError, ValueError) as error:
        logger.warning("telemetry event %s cannot be read, and is left out of release tests: %r", event_id, error)
        return None


def _dictation(event: dict[str, Any], received: datetime) -> Dictation:
    return Dictation(
        at=datetime.fromisoformat(event["at"]),
        received=received,
        device_id=event["device_id"],
        device_class=event["context"]["device_class"],
        app_version=event["context"]["app_version"],
        model_version=event["model_version"],
        words=event["words"],
        corrected_words=event["corrected_words"],
        latency_ms=event["latency_ms"],
        duration_s=event["duration_s"],
        crashed=event.get("crashed", False),
        abandoned=event.get("abandoned", False),
        fallback=event.get("fallback", False),
        remote=event.get("answered") == InferenceMode.REMOTE,
        shadow_model_version=event.get("shadow_model_version"),
        shadow_corrected_words=event.get("shadow_corrected_words"),
        shadow_latency_ms=event.get("shadow_latency_ms"),
    )
