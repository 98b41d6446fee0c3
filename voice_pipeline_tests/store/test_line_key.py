"""Nobody without the home's keys makes a line that counts, nor a note where one was; homes from before still open."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from voice_pipeline.store import ledger as ledger_module
from voice_pipeline.store.checkpoint import CHECKPOINT, KEY
from voice_pipeline.store.errors import LedgerBrokenError
from voice_pipeline.store.ledger import FOUNDED
from voice_pipeline.store.line_key import LINE_KEY, PLAIN, LineKey
from voice_pipeline.store.tables import ledger as table
from voice_pipeline_tests.store.test_checkpoint import (
    LINES,
    age,
    assert_refused,
    chained,
    copy_of,
    grow,
    key_of,
    open_home,
    put,
    rows_of,
    several,
)


@several
@given(lines=st.integers(0, LINES), forged=st.integers(1, 3), secret=st.binary(min_size=32, max_size=32))
def test_a_line_that_somebody_without_the_keys_appends_is_refused_and_never_signed(
    grown: Path, lines: int, forged: int, secret: bytes
) -> None:
    """Whatever key they try, none included, in a home of today and in one that has `lines` lines from before."""
    with copy_of(grown) as store:
        put(store, rows_of(store)[:lines])
        age(store)
        assert store.ledger.verify() == lines
        grow(store, LINES - lines)
        note, rows = (store.settings.root / CHECKPOINT).read_bytes(), rows_of(store)
        for key in (PLAIN, LineKey(0, secret)):
            put(store, rows + chained([*rows, *[rows[-1]] * forged], key)[LINES:])
            with store.database.write() as connection:
                first = table.c.seq == LINES + 1
                line = {**rows[-1], "seq": LINES + 1, "prev_hash": rows[-1]["hash"]}
                connection.execute(update(table).where(first).values(**line | {"hash": ledger_module._hash(line, key)}))
            for reader in (store, open_home(store.settings.root)):
                assert_refused(reader, f"line {LINES + 1} was changed")
                with pytest.raises(LedgerBrokenError, match=f"line {LINES + 1} was changed"):
                    reader.ledger.lines()
            assert (store.settings.root / CHECKPOINT).read_bytes() == note
        grow(store, 1)
        assert_refused(store, f"line {LINES + 1} was changed")


@pytest.mark.parametrize("first", ["verify", "append"])
@pytest.mark.parametrize("noted", [False, True])
def test_a_home_from_before_is_founded_by_its_first_use(grown: Path, first: str, noted: bool) -> None:
    """From before notes, or from the short time in which there were notes and no line keys."""
    with copy_of(grown) as store:
        age(store)
        if noted:
            assert store.ledger.verify() == LINES
            (store.settings.keys / LINE_KEY).unlink()
        if first == "verify":
            assert store.ledger.verify() == LINES
        store.ledger.append("verdict", "r", {}, "controller")
        assert key_of(store).plain == LINES
        assert stat.S_IMODE((store.settings.keys / LINE_KEY).stat().st_mode) == 0o600
        for reader in (store, open_home(store.settings.root)):
            assert reader.ledger.verify() == len(reader.ledger.lines()) == LINES + 1
        put(store, rows_of(store)[:-1])
        assert_refused(store, f"ends at line {LINES}")


def test_lines_from_before_that_do_not_verify_are_vouched_for_by_nothing(grown: Path) -> None:
    with copy_of(grown) as store:
        age(store)
        with store.database.write() as connection:
            connection.execute(update(table).where(table.c.seq == 3).values(actor="somebody"))
        assert_refused(store, "line 3 was changed")
        with pytest.raises(LedgerBrokenError, match="line 3 was changed"):
            grow(store, 1)
        assert not list(store.settings.root.rglob("ledger*.key"))
        assert not (store.settings.root / CHECKPOINT).exists()


@several
@given(kept=st.integers(0, LINES), line_key=st.booleans())
def test_who_takes_note_and_keys_away_gets_no_new_ones(grown: Path, kept: int, line_key: bool) -> None:
    with copy_of(grown) as store:
        put(store, rows_of(store)[:kept])
        (store.settings.root / CHECKPOINT).unlink()
        (store.settings.keys / KEY).unlink()
        line_key = line_key and kept > 0  # a home without keys and lines is a new one
        if line_key:
            (store.settings.keys / LINE_KEY).unlink()
        naming = f"keys/{LINE_KEY} is missing|line 1 was changed" if line_key else "verify --found-checkpoint"
        for reader in (store, open_home(store.settings.root)):
            assert_refused(reader, naming)
        if line_key:
            with pytest.raises(LedgerBrokenError, match=f"keys/{LINE_KEY} is missing"):
                grow(store, 1)
        else:
            grow(store, 1)
        assert_refused(store, naming)
        assert not (store.settings.root / CHECKPOINT).exists()
        assert not (store.settings.keys / KEY).exists()


@several
@given(kept=st.integers(0, LINES), before=st.integers(0, LINES))
def test_a_person_can_have_a_new_note_made_and_a_line_says_so(grown: Path, kept: int, before: int) -> None:
    with copy_of(grown) as store:
        put(store, rows_of(store)[:before])
        age(store)
        store.ledger.verify()
        grow(store, LINES - before)
        assert store.ledger.found_checkpoint("somebody") is None, "a note is there"
        put(store, rows_of(store)[:kept])
        (store.settings.root / CHECKPOINT).unlink()
        reader = open_home(store.settings.root)
        with pytest.raises(LedgerBrokenError, match=f"{CHECKPOINT} is missing"):
            reader.ledger.found_checkpoint("somebody")
        (store.settings.keys / KEY).unlink()
        assert reader.ledger.found_checkpoint("somebody") == kept
        assert reader.ledger.verify() == kept + 1
        line = reader.ledger.lines()[-1]
        assert (line.kind, line.actor, line.payload["lines"]) == (FOUNDED, "somebody", kept)
        assert key_of(reader).plain == min(kept, before), "no line from now on is plain"
        put(reader, rows_of(reader)[:-1])
        assert_refused(reader, f"ends at line {kept}, {kept + 1} were")


def test_a_new_note_vouches_for_no_line_that_does_not_verify(grown: Path) -> None:
    with copy_of(grown) as store:
        rows = rows_of(store)
        rows[2]["actor"] = "somebody"
        put(store, chained(rows))
        (store.settings.root / CHECKPOINT).unlink()
        (store.settings.keys / KEY).unlink()
        with pytest.raises(LedgerBrokenError, match="line 1 was changed"):
            store.ledger.found_checkpoint("somebody")
        assert not (store.settings.root / CHECKPOINT).exists()


@pytest.mark.parametrize("content", [b"", b"0", b"0\n00", b"-1\n" + b"00" * 32, b"0\n" + b"0g" * 32, b"\xff\n"])
def test_a_damaged_line_key_is_named(grown: Path, content: bytes) -> None:
    with copy_of(grown) as store:
        (store.settings.keys / LINE_KEY).write_bytes(content)
        assert_refused(store, f"keys/{LINE_KEY} cannot be read")
