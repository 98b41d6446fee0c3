"""What a device has to tell, kept on its disk until the edge has it.

Promise: what `add_*` returned for survives a crash; what the edge acknowledged is sent no more; a repeat after a lost
answer is harmless because events carry ids that the edge knows. The outbox is bounded: when it is full the oldest go,
and are counted. SQLite in WAL mode; a damaged file is set aside and a fresh one begun, since a device must go on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["telemetry", "capture"]
LIMITS: dict[Kind, int] = {"telemetry": 20_000, "capture": 50}


@dataclass(frozen=True)
class Letter:
    """One thing to send: `event` is JSON, `audio` the recording of a capture."""

    event_id: str
    event: str
    audio: bytes | None = None


class Outbox:
    """Args:
    path: the SQLite file, made on first use.
    limits: how many of each kind are kept.
    """

    def __init__(self, path: Path, limits: dict[Kind, int] | None = None) -> None:
        self._path = path
        self._limits = limits or LIMITS
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = self._open()
        except sqlite3.DatabaseError:
            for file in path.parent.glob(path.name + "*"):
                file.rename(file.with_name(f"damaged-{file.name}"))
            self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=30, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(
            """
            CREATE TABLE IF NOT EXISTS letters (
                number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, event_id TEXT NOT NULL,
                event TEXT NOT NULL, audio BLOB, UNIQUE (kind, event_id));
            CREATE TABLE IF NOT EXISTS lost (kind TEXT PRIMARY KEY, count INTEGER NOT NULL);
            """
        )
        return connection

    def add(self, kind: Kind, letters: Iterable[Letter]) -> None:
        """Keep letters; one whose id is there already changes nothing. The oldest beyond the limit are dropped."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany(
                "INSERT INTO letters (kind, event_id, event, audio) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (kind, event_id) DO NOTHING",
                [(kind, letter.event_id, letter.event, letter.audio) for letter in letters],
            )
            beyond = self.waiting(kind) - self._limits[kind]
            if beyond > 0:
                oldest = "SELECT number FROM letters WHERE kind = ? ORDER BY number LIMIT ?"
                self._connection.execute(f"DELETE FROM letters WHERE number IN ({oldest})", (kind, beyond))
                self._count_lost(kind, beyond)
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def next(self, kind: Kind, count: int) -> list[Letter]:
        """The oldest `count` letters, still kept."""
        rows = self._connection.execute(
            "SELECT event_id, event, audio FROM letters WHERE kind = ? ORDER BY number LIMIT ?", (kind, count)
        )
        return [Letter(*row) for row in rows]

    def sent(self, kind: Kind, event_ids: Sequence[str]) -> None:
        """The edge has these: keep them no longer."""
        self._remove(kind, event_ids, lost=False)

    def refused(self, kind: Kind, event_ids: Sequence[str]) -> None:
        """The edge will never take these: drop and count them, so that they do not block the rest."""
        self._remove(kind, event_ids, lost=True)

    def waiting(self, kind: Kind) -> int:
        """How many letters are kept."""
        return int(self._connection.execute("SELECT count(*) FROM letters WHERE kind = ?", (kind,)).fetchone()[0])

    def lost(self, kind: Kind) -> int:
        """How many were dropped unsent, ever."""
        row = self._connection.execute("SELECT count FROM lost WHERE kind = ?", (kind,)).fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        self._connection.close()

    def _remove(self, kind: Kind, event_ids: Sequence[str], lost: bool) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(
            "DELETE FROM letters WHERE kind = ? AND event_id = ?", [(kind, event_id) for event_id in event_ids]
        )
        if lost:
            self._count_lost(kind, len(event_ids))
        self._connection.execute("COMMIT")

    def _count_lost(self, kind: Kind, count: int) -> None:
        self._connection.execute(
            "INSERT INTO lost VALUES (?, ?) ON CONFLICT (kind) DO UPDATE SET count = count + excluded.count",
            (kind, count),
        )
