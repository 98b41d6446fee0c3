"""Whatever somebody does to the ledger's lines, to its end or to the note beside it: it does not verify any more."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, update

from voice_pipeline.settings import Settings
from voice_pipeline.store import ledger as ledger_module
from voice_pipeline.store.checkpoint import CHECKPOINT, KEY
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.errors import LedgerBrokenError
from voice_pipeline.store.ledger import GENESIS
from voice_pipeline.store.line_key import LINE_KEY, PLAIN, LineKey, LineKeyFile
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import ledger as table
from voice_pipeline_tests.killing import STATEMENTS, interruptions

LINES = 7
several = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
positions = st.integers(1, LINES)
COLUMNS = ("prev_hash", "hash", "at", "kind", "subject", "actor", "payload")
Row = dict[str, Any]


def open_home(home: Path) -> Store:
    return Store.open(Settings(home=home), ManualClock(datetime(2026, 11, 2, 9, tzinfo=UTC)))


def grow(store: Store, lines: int) -> None:
    for number in range(lines):
        kind = ("verdict", "transition")[number % 2]
        store.ledger.append(kind, f"release-{number % 3}", {"number": number, "to": "shadow"}, "controller")


def close(store: Store) -> None:
    store.database.engine.dispose()


@contextmanager
def copy_of(home: Path) -> Iterator[Store]:
    with TemporaryDirectory() as folder:
        store = open_home(Path(shutil.copytree(home, Path(folder) / "home")))
        yield store
        close(store)


def rows_of(store: Store) -> list[Row]:
    return [dict(row) for row in store.database.rows(select(table).order_by(table.c.seq))]


def put(store: Store, rows: list[Row]) -> None:
    with store.database.write() as connection:
        connection.execute(delete(table))
        if rows:
            connection.execute(insert(table), rows)


def chained(rows: list[Row], key: LineKey = PLAIN) -> list[Row]:
    """`rows` numbered and hashed anew, as somebody does who knows how and has no key of this home, or has `key`."""
    head, made = GENESIS, []
    for seq, row in enumerate(rows, 1):
        line = {**row, "seq": seq, "prev_hash": head}
        head = ledger_module._hash(line, key)
        made.append({**line, "hash": head})
    return made


def key_of(store: Store) -> LineKey:
    key = LineKeyFile(store.settings.keys).read()
    assert key is not None
    return key


def age(store: Store) -> None:
    """Make it a home from before there were keys and notes."""
    put(store, chained(rows_of(store)))
    for path in (store.settings.root / CHECKPOINT, store.settings.keys / KEY, store.settings.keys / LINE_KEY):
        path.unlink()


def assert_refused(store: Store, naming: str) -> None:
    with pytest.raises(LedgerBrokenError, match=naming) as error:
        store.ledger.verify()
    assert "\n" not in str(error.value)
    assert "backup" in str(error.value)
    assert "docs/runbook.md" in str(error.value)


@several
@given(seq=positions, column=st.sampled_from(COLUMNS), value=st.text(max_size=80) | st.binary(max_size=40))
@example(seq=7, column="hash", value=b"\x80")
def test_an_edit_of_any_column_of_any_line_is_named(grown: Path, seq: int, column: str, value: str | bytes) -> None:
    with copy_of(grown) as store:
        if rows_of(store)[seq - 1][column] == value:
            return
        raw = value if isinstance(value, bytes) else value.encode(errors="surrogatepass")
        connection = store.database.engine.raw_connection()  # as somebody with the file does: any bytes, as text
        connection.cursor().execute(f"UPDATE ledger SET {column} = CAST(? AS TEXT) WHERE seq = ?", (raw, seq))
        connection.close()
        assert_refused(store, rf"ledger line {seq} was changed|after line [0-{seq - 1}] was changed to what is no text")


@several
@given(seq=positions, column=st.sampled_from(COLUMNS), value=st.binary(max_size=20))
def test_bytes_where_text_was_are_named(grown: Path, seq: int, column: str, value: bytes) -> None:
    with copy_of(grown) as store:
        connection = store.database.engine.raw_connection()
        connection.cursor().execute(f"UPDATE ledger SET {column} = ? WHERE seq = ?", (value, seq))
        connection.close()
        assert_refused(store, rf"ledger line {seq} was changed")


@several
@given(gone=st.sets(positions, min_size=1))
def test_removed_lines_are_named_wherever_they_were(grown: Path, gone: set[int]) -> None:
    with copy_of(grown) as store:
        with store.database.write() as connection:
            connection.execute(delete(table).where(table.c.seq.in_(gone)))
        last = max(set(range(LINES + 1)) - gone)
        first_hole = min(gone)
        cut_off = first_hole > last
        assert_refused(store, f"ends at line {last}, {LINES} were" if cut_off else f"line {first_hole} is missing")


@several
@given(pair=st.lists(positions, min_size=2, max_size=2, unique=True))
def test_two_lines_that_change_places_are_noticed(grown: Path, pair: list[int]) -> None:
    first, second = pair
    with copy_of(grown) as store:
        rows = rows_of(store)
        rows[first - 1]["seq"], rows[second - 1]["seq"] = second, first
        put(store, rows)
        assert_refused(store, f"ledger line {min(pair)} was changed")


@several
@given(seq=positions, at=st.integers(-1, LINES + 3))
def test_a_line_put_in_a_second_time_is_noticed(grown: Path, seq: int, at: int) -> None:
    """At a free number, or between two others, which all move up by one."""
    with copy_of(grown) as store:
        rows = rows_of(store)
        copy = {**rows[seq - 1], "seq": at, "hash": "f" * 64}
        moved = [{**row, "seq": row["seq"] + 1} if 1 <= at <= row["seq"] else row for row in rows]
        put(store, [*moved, copy])
        assert_refused(store, r"ledger line \d+ (was changed|is missing)")


@several
@given(seq=positions, column=st.sampled_from(("at", "kind", "subject", "actor", "payload")))
def test_a_chain_written_anew_from_an_edited_line_on_is_noticed(grown: Path, seq: int, column: str) -> None:
    """Whoever lacks the line key stops at the first line; whoever has it, at the note."""
    with copy_of(grown) as store:
        rows = rows_of(store)
        rows[seq - 1][column] = json.dumps({"to": "production"})
        put(store, chained(rows))
        assert_refused(store, "ledger line 1 was changed")
        put(store, chained(rows, key_of(store)))
        assert_refused(store, f"ledger line {LINES} is not the one that {CHECKPOINT} names")


@several
@given(seq=positions, extra=st.integers(0, 4))
def test_a_chain_written_anew_without_a_line_is_noticed_however_many_follow(grown: Path, seq: int, extra: int) -> None:
    """Lines that this home appends afterwards do not heal it: the note stays where it was."""
    with copy_of(grown) as store:
        rows = rows_of(store)
        del rows[seq - 1]
        put(store, chained(rows, key_of(store)))
        grow(store, extra)
        assert_refused(store, f"ends at line {LINES - 1}" if extra == 0 else f"line {LINES} is not the one")


@several
@given(data=st.data())
def test_a_note_with_any_byte_changed_is_refused(grown: Path, data: st.DataObject) -> None:
    with copy_of(grown) as store:
        path = store.settings.root / CHECKPOINT
        note = bytearray(path.read_bytes())
        note[data.draw(st.integers(0, len(note) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(note)
        assert_refused(store, f"{CHECKPOINT} is not a note")


@pytest.mark.parametrize("tail", [b"\n", b" ", b"\nanother line\n", b"x"])
def test_a_note_with_something_added_is_refused(grown: Path, tail: bytes) -> None:
    with copy_of(grown) as store:
        path = store.settings.root / CHECKPOINT
        path.write_bytes(path.read_bytes() + tail)
        assert_refused(store, f"{CHECKPOINT} is not a note")


def test_a_missing_note_a_missing_key_and_another_homes_note_are_refused(grown: Path, tmp_path: Path) -> None:
    other = open_home(tmp_path / "other")
    grow(other, LINES)
    assert rows_of(other)[-1]["hash"] != rows_of(open_home(grown))[-1]["hash"], "each home has a line key of its own"
    with copy_of(grown) as store:
        shutil.copy(tmp_path / "other" / CHECKPOINT, store.settings.root / CHECKPOINT)
        assert_refused(store, "another home's")
        (store.settings.root / CHECKPOINT).unlink()
        assert_refused(store, f"{CHECKPOINT} is missing")
    with copy_of(grown) as store:
        (store.settings.keys / KEY).write_bytes(b"no key")
        assert_refused(store, f"keys/{KEY} cannot be read")
        (store.settings.keys / KEY).unlink()
        assert_refused(store, f"keys/{KEY} is missing")


def test_an_emptied_ledger_is_noticed(grown: Path) -> None:
    with copy_of(grown) as store:
        put(store, [])
        assert_refused(store, f"ends at line 0, {LINES} were there")


def test_the_note_is_a_signed_note_of_a_checkpoint(grown: Path) -> None:
    """As https://c2sp.org/signed-note and https://c2sp.org/tlog-checkpoint have it, read without our own code."""
    with copy_of(grown) as store:
        text, _, signature = (store.settings.root / CHECKPOINT).read_text().partition("\n\n")
        origin, size, head = text.split("\n")
        assert (int(size), base64.b64decode(head).hex()) == (LINES, rows_of(store)[-1]["hash"])
        dash, name, encoded = signature.removesuffix("\n").split(" ")
        assert (dash, name) == ("\u2014", origin)
        path = store.settings.keys / KEY
        public = load_pem_private_key(path.read_bytes(), None).public_key()
        raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        signed = base64.b64decode(encoded)
        assert signed[:4] == hashlib.sha256(f"{name}\n".encode() + b"\x01" + raw).digest()[:4]
        public.verify(signed[4:], f"{text}\n".encode())  # type: ignore[union-attr, call-arg]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_home_whose_ledger_is_empty_is_left_as_it_is(tmp_path: Path) -> None:
    store = open_home(tmp_path / "home")
    before = sorted(path.name for path in (tmp_path / "home").rglob("*"))
    assert store.ledger.verify() == 0
    assert sorted(path.name for path in (tmp_path / "home").rglob("*")) == before


def test_a_note_that_fell_behind_is_moved_on_by_verify(grown: Path) -> None:
    with copy_of(grown) as store:
        behind = (store.settings.root / CHECKPOINT).read_bytes()
        grow(store, 2)
        (store.settings.root / CHECKPOINT).write_bytes(behind)
        assert store.ledger.verify() == LINES + 2
        assert (store.settings.root / CHECKPOINT).read_text().split("\n")[1] == str(LINES + 2)


def test_a_line_is_stored_even_where_the_note_cannot_be(grown: Path, caplog: pytest.LogCaptureFixture) -> None:
    with copy_of(grown) as store:
        lock = store.settings.root / f".{CHECKPOINT}.lock"
        lock.unlink()
        lock.mkdir()
        assert store.ledger.append("erasure", "s", {}, "device").seq == LINES + 1
        assert f"line {LINES + 1} is stored, but not in its checkpoint" in caplog.text
        lock.rmdir()
        assert store.ledger.verify() == LINES + 1


def test_a_transaction_that_fails_leaves_the_note_as_it_was(grown: Path) -> None:
    with copy_of(grown) as store:
        before = (store.settings.root / CHECKPOINT).read_bytes()

        def fail() -> None:
            with store.database.write() as connection:
                store.ledger.append("verdict", "r", {}, "controller", connection=connection)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert (store.settings.root / CHECKPOINT).read_bytes() == before
        assert store.ledger.verify() == LINES


def test_many_writers_at_once_move_one_note_and_never_back(grown: Path) -> None:
    with copy_of(grown) as store:
        threads = [threading.Thread(target=grow, args=(open_home(store.settings.root), 10)) for _ in range(4)]
        for thread in threads:
            thread.start()
        seen = [LINES]
        while any(thread.is_alive() for thread in threads):
            seen.append(int((store.settings.root / CHECKPOINT).read_text().split("\n")[1]))
        assert seen == sorted(seen)
        assert (store.settings.root / CHECKPOINT).read_text().split("\n")[1] == str(LINES + 40)
        assert store.ledger.verify() == LINES + 40


@pytest.mark.parametrize("lines", [0, LINES])
def test_killed_at_any_instant_of_a_founding_or_an_append_the_home_verifies(
    grown: Path, tmp_path: Path, lines: int
) -> None:
    """A new home, or one from before that is founded; then what was lost is noticed again."""
    home = tmp_path / "home"

    def append() -> None:
        store = open_home(home)
        store.ledger.append("verdict", "r", {}, "controller")
        store.ledger.verify()

    def prepare() -> object:
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(grown, home)
        store = open_home(home)
        put(store, rows_of(store)[:lines])
        age(store)
        close(store)
        return append

    instants = 0
    for instants in interruptions(prepare, STATEMENTS):  # type: ignore[arg-type]  # noqa: B007
        store = open_home(home)
        found = store.ledger.verify()
        assert found in (lines, lines + 1)
        append()
        put(store, rows_of(store)[:-1])
        assert_refused(open_home(home), f"ends at line {found}")
        close(store)
    assert instants >= 6


def test_a_long_ledger_is_checked_in_turn(grown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old line edited in place meanwhile: at once by a new process and where it is read, else within its turn."""
    monkeypatch.setattr(ledger_module, "TURN", 2)
    for seq in range(1, LINES + 1):
        with copy_of(grown) as store:
            assert store.ledger.verify() == LINES
            with store.database.write() as connection:
                connection.execute(update(table).where(table.c.seq == seq).values(payload='{"to":"production"}'))
            with pytest.raises(LedgerBrokenError, match=f"line {seq} was changed"):
                store.ledger.lines()
            assert_refused(open_home(store.settings.root), f"line {seq} was changed")
            noticed = [_refuses(store) for _ in range(4)]
            assert noticed == [turn >= (seq - 1) // 2 for turn in range(4)], f"line {seq}"


def _refuses(store: Store) -> bool:
    try:
        store.ledger.verify()
    except LedgerBrokenError:
        return True
    return False


@pytest.mark.parametrize("tampering", ["hole", "cut", "forged"])
def test_a_long_ledger_shows_at_once_what_changes_its_length_or_its_end(
    grown: Path, monkeypatch: pytest.MonkeyPatch, tampering: str
) -> None:
    """Even where the note was put back to an earlier one, which vouches for a cut or rewritten ledger."""
    monkeypatch.setattr(ledger_module, "TURN", 2)
    for line in range(1 if tampering == "hole" else LINES, LINES + 2):
        with copy_of(grown) as store:
            note = (store.settings.root / CHECKPOINT).read_bytes()
            grow(store, 3)
            assert store.ledger.verify() == LINES + 3
            rows = rows_of(store)
            if tampering == "forged":
                rows[line]["actor"] = "somebody"
                put(store, chained(rows, key_of(store)))
            else:
                put(store, rows[:line] + (rows[line + 1 :] if tampering == "hole" else []))
            (store.settings.root / CHECKPOINT).write_bytes(note)
            assert _refuses(store), f"line {line}"


def test_a_longer_ledger_goes_on_verifying_while_it_grows(grown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "TURN", 3)
    with copy_of(grown) as store:
        for extra in range(0, 12, 2):
            assert store.ledger.verify() == LINES + extra
            assert open_home(store.settings.root).ledger.verify() == LINES + extra
            grow(store, 2)
