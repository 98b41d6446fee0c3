"""How intake and ingest write clips: a chunk at a time, its blobs side by side, then one transaction.

Order of writes: blob (fsync, move), then the transaction that makes it count, in which a refused event enters the
quarantine. A crash between the two leaves an encrypted blob that nothing names and that the repeated call overwrites.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, RowMapping

from voice_pipeline.capture.admission import Refusal
from voice_pipeline.store.database import insert_new
from voice_pipeline.store.tables import quarantine

CHUNK = 100
"""Clips per transaction."""

WRITERS = 8
"""Blobs written at a time."""

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`work` on each item, several at a time: flushes to disk overlap and file systems commit them together."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(work, items))


def enter_quarantine(connection: Connection, row: RowMapping | dict[str, object], refusal: Refusal, at: str) -> None:
    """Record why the event of an inbox row is refused, in the transaction that decides it."""
    entry = {
        "event_id": row["event_id"],
        "clip_id": row["clip_id"],
        "capture_date": row["capture_date"],
        "reason": refusal.reason.value,
        "detail": refusal.detail,
        "at": at,
    }
    insert_new(connection, quarantine, [entry])
