"""What a device has to tell, kept on its disk until the edge has it.

Promise: what `add` returned True for survives a crash, whole; what the edge acknowledged is sent no more; a repeat
after a lost answer is harmless because events carry ids that the edge knows. The outbox is bounded: when it holds its
limit the oldest go, and are counted.

A full or failing disk stops nobody from dictating: what cannot be kept is dropped and counted as lost, what waits goes
on waiting and can be sent. SQLite in WAL mode (https://sqlite.org/wal.html); a damaged file is set aside and a fresh
one begun, since a device must go on. SQLite's result codes: https://sqlite.org/rescode.html.

Threads of one process share an outbox; each call is whole before the next begins. A second process has no business in
the file; while one holds it all the same, it counts as a disk that takes nothing.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

Kind = Literal["telemetry", "capture"]
LIMITS: dict[Kind, int] = {"telemetry": 20_000, "capture": 50}
DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
NO_ROOM = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})
HELD = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
HELD_SECONDS = 5.0
"""How long to wait for another process: nobody who dictates waits longer."""
PRIMARY = 0xFF
"""The lower byte of a result code: its kind without the detail."""
T = TypeVar("T")


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
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._uncounted: Counter[Kind] = Counter()
        self._gone: set[tuple[Kind, str]] = set()
        self._on_disk(lambda connection: None, otherwise=None)

    def add(self, kind: Kind, letters: Iterable[Letter]) -> bool:
        """Keep letters; one whose id is there already changes nothing. The oldest beyond the limit are dropped.

        Returns:
            False where the disk takes no more, or another process holds the file: none of them is kept then, and all
            are counted as lost.
        """
        rows = [(kind, letter.event_id, letter.event, letter.audio) for letter in letters]

        def insert(connection: sqlite3.Connection) -> bool:
            with _transaction(connection):
                connection.executemany(
                    "INSERT INTO letters (kind, event_id, event, audio) VALUES (?, ?, ?, ?) "
                    "ON CONFLICT (kind, event_id) DO NOTHING",
                    rows,
                )
                beyond = _count(connection, kind) - self._limits[kind]
                if beyond > 0:
                    oldest = "SELECT number FROM letters WHERE kind = ? ORDER BY number LIMIT ?"
                    connection.execute(f"DELETE FROM letters WHERE number IN ({oldest})", (kind, beyond))
                _count_lost(connection, kind, max(0, beyond) + self._uncounted[kind])
            self._uncounted[kind] = 0
            return True

        with self._lock:
            kept = self._on_disk(insert, otherwise=False)
            if not kept:
                self._uncounted[kind] += len(rows)
        return kept

    def next(self, kind: Kind, count: int) -> list[Letter]:
        """The oldest `count` letters, still kept."""

        def oldest(connection: sqlite3.Connection) -> list[Letter]:
            gone = {event_id for of, event_id in self._gone if of == kind}
            rows = connection.execute(
                "SELECT event_id, event, audio FROM letters WHERE kind = ? ORDER BY number LIMIT ?",
                (kind, count + len(gone)),
            )
            return [Letter(*row) for row in rows if row[0] not in gone][:count]

        return self._on_disk(oldest, otherwise=[])

    def sent(self, kind: Kind, event_ids: Sequence[str]) -> None:
        """The edge has these: keep them no longer."""
        self._remove(kind, event_ids, lost=0)

    def refused(self, kind: Kind, event_ids: Sequence[str]) -> None:
        """The edge will never take these: drop and count them, so that they do not block the rest."""
        self._remove(kind, event_ids, lost=len(event_ids))

    def waiting(self, kind: Kind) -> int:
        """How many letters are kept."""

        def counted(connection: sqlite3.Connection) -> int:
            return _count(connection, kind) - sum(of == kind for of, _ in self._gone)

        return self._on_disk(counted, otherwise=0)

    def lost(self, kind: Kind) -> int:
        """How many were dropped unsent, ever; of those that a full disk cost, the ones since the last start."""

        def counted(connection: sqlite3.Connection) -> int:
            row = connection.execute("SELECT count FROM lost WHERE kind = ?", (kind,)).fetchone()
            return int(row[0]) if row else 0

        with self._lock:
            return self._on_disk(counted, otherwise=0) + self._uncounted[kind]

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _remove(self, kind: Kind, event_ids: Sequence[str], lost: int) -> None:
        """Where the disk has no room even for that, they are remembered here and go with the next ones."""

        def delete(connection: sqlite3.Connection) -> bool:
            with _transaction(connection):
                connection.executemany("DELETE FROM letters WHERE kind = ? AND event_id = ?", list(self._gone))
                _count_lost(connection, kind, self._uncounted[kind])
            return True

        with self._lock:
            self._gone |= {(kind, event_id) for event_id in event_ids}
            self._uncounted[kind] += lost
            if self._on_disk(delete, otherwise=False):
                self._gone.clear()
                self._uncounted[kind] = 0

    # --- the file -----------------------------------------------------------------------------------------------------

    def _on_disk(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """What `work` gives; `otherwise` where the disk takes or gives nothing. A damaged file is replaced first."""
        with self._lock:
            try:
                return work(self._open())
            except (sqlite3.DatabaseError, OSError) as error:
                if _is(error, DAMAGED):
                    self._set_aside()
                    return self._on_disk(work, otherwise)
                if isinstance(error, OSError) or _is(error, NO_ROOM | HELD):
                    return otherwise
                raise

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self._path, isolation_level=None, timeout=HELD_SECONDS, check_same_thread=False
            )
            try:
                _prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _set_aside(self) -> None:
        self.close()
        self._gone.clear()
        for file in list(self._path.parent.glob(self._path.name + "*")):
            file.rename(file.with_name(f"damaged-{file.name}"))


def _prepare(connection: sqlite3.Connection) -> None:
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


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite rolls back by itself where the disk is full
            connection.execute("ROLLBACK")
        raise


def _count(connection: sqlite3.Connection, kind: Kind) -> int:
    return int(connection.execute("SELECT count(*) FROM letters WHERE kind = ?", (kind,)).fetchone()[0])


def _count_lost(connection: sqlite3.Connection, kind: Kind, count: int) -> None:
    if count:
        connection.execute(
            "INSERT INTO lost VALUES (?, ?) ON CONFLICT (kind) DO UPDATE SET count = count + excluded.count",
            (kind, count),
        )


def _is(error: Exception, codes: frozenset[int]) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & PRIMARY in codes
