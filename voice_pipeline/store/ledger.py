"""The append-only, hash-chained ledger: every verdict, transition and decision that led a model to a device.

Each line carries the hash of the one before it, so a line that is edited, removed or moved breaks the chain from there
on (the linear hash chain of Haber and Stornetta, 1991). An append names the head it decided upon; if another writer was
first it is refused, so two controllers can never both act on the same state.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from voice_pipeline.schema.canonical import canonical_json, sha256_bytes
from voice_pipeline.store.clock import Clock
from voice_pipeline.store.database import Database
from voice_pipeline.store.errors import LedgerBrokenError, LedgerConflictError
from voice_pipeline.store.tables import ledger as table

GENESIS = "0" * 64


@dataclass(frozen=True)
class LedgerLine:
    """One line. `subject` is the id it is about (release, bundle, clip …), `payload` its plain-JSON content."""

    seq: int
    hash: str
    prev_hash: str
    at: str
    kind: str
    subject: str
    actor: str
    payload: dict[str, Any]


class Ledger:
    """Reads and appends. There is no update and no delete."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def head(self) -> int:
        """Sequence number of the last line; 0 when empty."""
        return int(self._database.scalar(select(table.c.seq).order_by(table.c.seq.desc()).limit(1)) or 0)

    def append(
        self,
        kind: str,
        subject: str,
        payload: dict[str, Any],
        actor: str,
        expected_head: int | None = None,
        connection: Connection | None = None,
    ) -> LedgerLine:
        """Append one line, in the caller's transaction where `connection` is given.

        Raises:
            LedgerConflictError: `expected_head` is no longer the head.
        """
        if connection is not None:
            return self._append(connection, kind, subject, payload, actor, expected_head)
        with self._database.write() as own:
            return self._append(own, kind, subject, payload, actor, expected_head)

    def _append(
        self, connection: Connection, kind: str, subject: str, payload: dict[str, Any], actor: str, expected: int | None
    ) -> LedgerLine:
        last = connection.execute(select(table.c.seq, table.c.hash).order_by(table.c.seq.desc()).limit(1)).first()
        seq, prev_hash = (last.seq, last.hash) if last else (0, GENESIS)
        if expected is not None and expected != seq:
            raise LedgerConflictError(
                f"ledger head is {seq}, {subject} was decided upon at {expected}; read again and decide again"
            )
        body = canonical_json(payload).decode()
        line = {
            "seq": seq + 1,
            "prev_hash": prev_hash,
            "at": self._clock.now().isoformat(),
            "kind": kind,
            "subject": subject,
            "actor": actor,
            "payload": body,
        }
        line["hash"] = _hash(line)
        connection.execute(insert(table).values(**line))
        return _line(line)

    def lines(self, kind: str | None = None, subject: str | None = None) -> list[LedgerLine]:
        """Lines in order, of one kind and about one subject where given."""
        statement = select(table).order_by(table.c.seq)
        if kind is not None:
            statement = statement.where(table.c.kind == kind)
        if subject is not None:
            statement = statement.where(table.c.subject == subject)
        return [_line(dict(row)) for row in self._database.rows(statement)]

    def verify(self) -> int:
        """Check the whole chain; returns the number of lines.

        Raises:
            LedgerBrokenError: names the first line that does not verify.
        """
        prev_hash = GENESIS
        count = 0
        for row in self._database.rows(select(table).order_by(table.c.seq)):
            count += 1
            if row["seq"] != count:
                raise LedgerBrokenError(f"ledger line {count} is missing (found {row['seq']}); restore from a backup")
            if row["prev_hash"] != prev_hash or row["hash"] != _hash(dict(row)):
                raise LedgerBrokenError(f"ledger line {row['seq']} was changed; restore the ledger from a backup")
            prev_hash = row["hash"]
        return count


def _hash(line: dict[str, Any]) -> str:
    return sha256_bytes(canonical_json({key: value for key, value in line.items() if key != "hash"}))


def _line(row: dict[str, Any]) -> LedgerLine:
    return LedgerLine(**{**row, "payload": json.loads(row["payload"])})
