"""The append-only, hash-chained ledger: every verdict, transition and decision that led a model to a device.

Each line carries the hash of the one before it, so a line that is edited, removed or moved breaks the chain from there
on (the linear hash chain of Haber and Stornetta, 1991). The hash is keyed (`store.line_key`), so no line can be made by
somebody who has the database and not the home's keys. What a chain cannot show, its own end cut off or written anew,
the signed note beside the catalogue shows (`store.checkpoint`); each commit that appended moves it on.

An append names the line it decided upon and the lines that matter for it (`Stream`); if another writer was first with
one of those it is refused, so two controllers can never both act on the same state. Lines that have nothing to do with
it (an erasure, an export) do not get in its way.

`verify` checks the whole chain when a process asks the first time, and every time up to `TURN` lines. Of a longer
ledger it checks each time all lines since the last time, the number of lines, the last line it knew, and the next
`TURN` of the old ones in turn: an old line that was edited in place meanwhile is noticed after at most
`lines / TURN` further calls, at once by a new process, and at once where it is read (`lines` checks what it returns).
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Select, func, insert, or_, select
from sqlalchemy.exc import IntegrityError, OperationalError

from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.store.checkpoint import RESTORE, Checkpoint, CheckpointFile, rewritten, unnoted
from voice_pipeline.store.clock import Clock
from voice_pipeline.store.database import Database, after_commit
from voice_pipeline.store.errors import LedgerBrokenError, LedgerConflictError
from voice_pipeline.store.line_key import LINE_KEY, PLAIN, LineKey, LineKeyFile
from voice_pipeline.store.tables import ledger as table

logger = logging.getLogger("voice_pipeline.ledger")

GENESIS = "0" * 64
FOUNDED = "checkpoint_founded"
"""Kind of the line that says that a person had a new note made for the lines before it."""
TURN = 10_000
"""Old lines that one `verify` checks: about a tenth of a second."""


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


@dataclass(frozen=True)
class Stream:
    """The lines that a decision was made upon: all of these kinds, and all about these subjects."""

    kinds: frozenset[str] = frozenset()
    subjects: frozenset[str] = frozenset()


@dataclass
class _Known:
    """What this process has verified: `size` lines that end in `head`; of those the first `turned` once more."""

    size: int = 0
    head: str = GENESIS
    turned: int = 0
    turned_head: str = GENESIS
    busy: threading.Lock = field(default_factory=threading.Lock)


class Ledger:
    """Reads and appends. There is no update and no delete."""

    def __init__(self, database: Database, clock: Clock, checkpoint: CheckpointFile, line_key: LineKeyFile) -> None:
        self._database = database
        self._clock = clock
        self._checkpoint = checkpoint
        self._line_key = line_key
        self._known = _Known()

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
        stream: Stream | None = None,
    ) -> LedgerLine:
        """Append one line, in the caller's transaction where `connection` is given (one of `Database.write`).

        Args:
            expected_head: the head that this was decided upon; None for what depends on no other line.
            stream: which later lines overturn the decision; None: any.

        Raises:
            LedgerConflictError: a line of `stream` came after `expected_head`, or another writer came between.
            LedgerBrokenError: the line key is missing or cannot be read.
            OSError: this is a home's first line, and its keys cannot be written.
        """
        if connection is not None:
            return self._append(connection, kind, subject, payload, actor, expected_head, stream)
        with self._database.write() as own:
            return self._append(own, kind, subject, payload, actor, expected_head, stream)

    def _append(
        self,
        connection: Connection,
        kind: str,
        subject: str,
        payload: dict[str, Any],
        actor: str,
        expected: int | None,
        stream: Stream | None,
    ) -> LedgerLine:
        if connection.dialect.name == "postgresql":  # SQLite's writer is alone already
            connection.exec_driver_sql("LOCK TABLE ledger IN SHARE ROW EXCLUSIVE MODE")
        last = _end(connection)
        seq = last.size
        if expected is not None:
            _check_unmoved(connection, subject, expected, seq, stream)
        body = canonical_json(payload).decode()
        key = self._line_key.read() or self._found(connection, last)
        line = {
            "seq": seq + 1,
            "prev_hash": last.head,
            "at": self._clock.now().isoformat(),
            "kind": kind,
            "subject": subject,
            "actor": actor,
            "payload": body,
        }
        line["hash"] = _hash(line, key)
        try:
            connection.execute(insert(table).values(**line))
        except IntegrityError as error:  # PostgreSQL, a writer that does not lock
            raise LedgerConflictError(
                f"ledger line {seq + 1} was written by somebody else; read again and decide {subject} again"
            ) from error
        to = Checkpoint(seq + 1, str(line["hash"]))
        after_commit(connection, "ledger.checkpoint", lambda: self._note(to))
        return _line(line)

    def lines(self, kind: str | None = None, subject: str | None = None, after: int = 0) -> list[LedgerLine]:
        """Lines in order, of one kind and about one subject where given, those behind line `after`.

        Raises:
            LedgerBrokenError: one of them is not what its own hash says.
        """
        statement = select(table).order_by(table.c.seq).where(table.c.seq > after)
        if kind is not None:
            statement = statement.where(table.c.kind == kind)
        if subject is not None:
            statement = statement.where(table.c.subject == subject)
        rows = [dict(row) for row in self._database.rows(statement)]
        key = self._line_key.read() or PLAIN  # read after the lines: none of them is keyed that is not so by this key
        changed = next((row["seq"] for row in rows if not _intact(row, key)), None)
        if changed is not None:
            raise LedgerBrokenError(f"ledger line {changed} was changed; {RESTORE}")
        return [_line(row) for row in rows]

    def verify(self) -> int:
        """Check the chain and its note, and move the note on; returns the number of lines. See the module for how much
        of a long ledger one call checks.

        Raises:
            LedgerBrokenError: names the first line that does not verify, or what is wrong with the note.
        """
        noted = self._checkpoint.read()
        with self._known.busy, self._database.read() as connection:
            end, key = _end(connection), self._line_key.read()
            if key is not None and noted is None and self._checkpoint.read() is None:
                raise LedgerBrokenError(unnoted())  # note first, then line key: a home that has this one had that one
            found = self._check(connection, end.size, key or PLAIN)
            if noted is not None:
                _check_note(connection, noted, found)
        if key is None and found.size:
            with self._database.write() as connection:
                self._found(connection, _end(connection))
        if found.size == 0 or found == noted:
            return found.size
        try:
            self._checkpoint.advance(found, self._reaches)
        except OSError as error:
            logger.warning("the ledger verifies, but its checkpoint cannot be moved on: %s", error)
        return found.size

    def found_checkpoint(self, actor: str) -> int | None:
        """Make a new note, and the key that signs it, for the ledger as it is, and say so in a line of it.

        Only a person can know that a missing note is no tampering, so nothing asks for this but a command.

        Returns:
            The number of lines that the note now vouches for; None where a note is there, and this changed nothing.

        Raises:
            LedgerBrokenError: a line does not verify, or one of note and key is still there without the other.
        """
        if self._checkpoint.read() is not None:
            return None
        with self._database.write() as connection:
            end = _end(connection)
            key = self._line_key.shorten(end.size) or PLAIN
            found = Checkpoint(end.size, _chain(connection, 0, GENESIS, end.size, key))
            self._checkpoint.found(found)
            self._append(connection, FOUNDED, "ledger", {"lines": found.size, "head": found.head}, actor, None, None)
        return found.size

    def _found(self, connection: Connection, at: Checkpoint) -> LineKey:
        """Make the keys and the note of a home that has no line yet, or all of whose lines are from before line keys.
        The line key comes last: where there is one there was a note.

        Raises:
            LedgerBrokenError: a line is not from before, so there was a key; or the lines or their note do not verify.
        """
        made = self._line_key.read()
        if made is not None:
            return made
        try:
            _chain(connection, 0, GENESIS, at.size, PLAIN)
        except LedgerBrokenError as error:
            raise LedgerBrokenError(f"keys/{LINE_KEY} is missing, or {error}") from error
        noted = self._checkpoint.read()
        if noted is None:
            self._checkpoint.found(at)
        else:
            _check_note(connection, noted, at)
        return self._line_key.found(at.size)

    def _check(self, connection: Connection, size: int, key: LineKey) -> Checkpoint:
        """The chain as one snapshot has it; what was verified is remembered only if all of it verifies."""
        known = self._known
        if known.size == 0 or size <= TURN:
            found = Checkpoint(size, _chain(connection, 0, GENESIS, size, key))
        else:
            if connection.execute(_numbers(size)).one() != (size, 1):
                _chain(connection, 0, GENESIS, size, key)  # names the line
            turned = min(known.turned + TURN, known.size)
            known.turned_head = _chain(connection, known.turned, known.turned_head, turned, key)
            known.turned = turned
            if turned == known.size and known.turned_head == known.head:
                known.turned, known.turned_head = 0, GENESIS
            elif turned == known.size:
                raise LedgerBrokenError(rewritten(turned))
            found = Checkpoint(size, _chain(connection, known.size, known.head, size, key))
        if known.size:
            _check_note(connection, Checkpoint(known.size, known.head), found)
        known.size, known.head = found.size, found.head
        return found

    def _note(self, to: Checkpoint) -> None:
        """After a commit: the line is stored whatever happens here, so what goes wrong is left to `verify` to tell."""
        try:
            self._checkpoint.advance(to, self._reaches)
        except (OSError, LedgerBrokenError) as error:
            logger.warning("ledger line %d is stored, but not in its checkpoint: %s", to.size, error)

    def _reaches(self, noted: Checkpoint) -> bool:
        return noted.size == 0 or self._database.scalar(_hash_at(noted.size)) == noted.head


def _end(connection: Connection) -> Checkpoint:
    try:
        last = connection.execute(select(table.c.seq, table.c.hash).order_by(table.c.seq.desc()).limit(1)).first()
    except OperationalError as error:
        if "decode" not in str(error):
            raise
        before = int(connection.execute(select(func.max(table.c.seq))).scalar() or 1) - 1
        raise LedgerBrokenError(_no_text(before)) from error
    return Checkpoint(last.seq, last.hash) if last else Checkpoint(0, GENESIS)


def _no_text(before: int) -> str:
    return f"a ledger line after line {before} was changed to what is no text; {RESTORE}"


def _check_unmoved(connection: Connection, subject: str, expected: int, last: int, stream: Stream | None) -> None:
    """Raises:
    LedgerConflictError: names the first line of `stream` in (`expected`, `last`].
    """
    later = select(table.c.seq, table.c.kind, table.c.subject, table.c.actor).order_by(table.c.seq).limit(1)
    later = later.where(table.c.seq > expected, table.c.seq <= last)
    if stream is not None:
        later = later.where(or_(table.c.kind.in_(stream.kinds), table.c.subject.in_(stream.subjects)))
    other = connection.execute(later).first()
    if other is not None:
        raise LedgerConflictError(
            f"{subject} was decided upon at ledger line {expected}, since then {other.actor} wrote line {other.seq} "
            f"({other.kind} of {other.subject}); read again and decide again"
        )
    if expected > last:
        raise LedgerConflictError(
            f"{subject} was decided upon at ledger line {expected}, the last is {last}; read again and decide again"
        )


def _chain(connection: Connection, start: int, head: str, end: int, key: LineKey) -> str:
    """The hash of line `end`, where lines `start` + 1 … `end` follow one another from hash `head`.

    Raises:
        LedgerBrokenError: names the first that does not.
    """
    rows = select(*table.c).where(table.c.seq <= end).order_by(table.c.seq)
    if start:
        rows = rows.where(table.c.seq > start)
    due = start
    try:
        for row in connection.execute(rows.execution_options(yield_per=1000)).mappings():
            due += 1
            if row["seq"] != due:
                raise LedgerBrokenError(f"ledger line {due} is missing (found {row['seq']}); {RESTORE}")
            if row["prev_hash"] != head or not _intact(dict(row), key):
                raise LedgerBrokenError(f"ledger line {due} was changed; {RESTORE}")
            head = row["hash"]
    except OperationalError as error:
        if "decode" not in str(error):
            raise
        raise LedgerBrokenError(_no_text(due)) from error
    return head


def _check_note(connection: Connection, noted: Checkpoint, found: Checkpoint) -> None:
    """Raises:
    LedgerBrokenError: the ledger that was found does not go on from the one that was noted.
    """
    if noted.size > found.size:
        raise LedgerBrokenError(
            f"ledger ends at line {found.size}, {noted.size} were there: the last ones were removed; {RESTORE}"
        )
    if noted.size and connection.execute(_hash_at(noted.size)).scalar() != noted.head:
        raise LedgerBrokenError(rewritten(noted.size))


def _hash_at(seq: int) -> Select[tuple[str]]:
    return select(table.c.hash).where(table.c.seq == seq)


def _numbers(size: int) -> Select[tuple[int, int]]:
    """How many lines there are up to `size`, and the first one's number. Counting all of them reads an index only."""
    every = select(func.count()).select_from(table)
    later, first = every.where(table.c.seq > size), select(func.min(table.c.seq))
    return select(every.scalar_subquery() - later.scalar_subquery(), first.scalar_subquery())


def _intact(row: dict[str, Any], key: LineKey) -> bool:
    try:
        return bool(row["hash"] == _hash(row, key))
    except TypeError:  # bytes, where text was
        return False


def _hash(line: dict[str, Any], key: LineKey) -> str:
    return key.hash(line["seq"], canonical_json({name: value for name, value in line.items() if name != "hash"}))


def _line(row: dict[str, Any]) -> LedgerLine:
    return LedgerLine(**{**row, "payload": json.loads(row["payload"])})
