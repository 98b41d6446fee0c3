"""The outbox: nothing is lost silently, nothing is sent twice after it was acknowledged."""

from __future__ import annotations

import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from time import sleep

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.device import outbox as module
from voice_pipeline.device.outbox import Letter, Outbox


def letters(*numbers: int) -> list[Letter]:
    return [Letter(f"event-{number:04}", "{}") for number in numbers]


@settings(max_examples=40, deadline=None)
@given(numbers=st.lists(st.integers(0, 30), max_size=40), limit=st.integers(1, 15))
def test_every_letter_is_waiting_or_counted_as_lost(tmp_path_factory, numbers: list[int], limit: int) -> None:  # type: ignore[no-untyped-def]
    outbox = Outbox(tmp_path_factory.mktemp("outbox") / "outbox.db", {"telemetry": limit, "capture": 1})
    distinct: list[int] = list(dict.fromkeys(numbers))
    outbox.add("telemetry", letters(*numbers))
    assert outbox.waiting("telemetry") == min(len(distinct), limit)
    assert outbox.lost("telemetry") == max(0, len(distinct) - limit)
    kept = [letter.event_id for letter in outbox.next("telemetry", 100)]
    assert kept == [letter.event_id for letter in letters(*distinct[-limit:])]  # the newest, oldest first
    outbox.close()


def test_letters_survive_a_process_that_never_closes(tmp_path: Path) -> None:
    Outbox(tmp_path / "outbox.db").add("capture", [Letter("event-0001", '{"a": 1}', b"audio")])
    assert Outbox(tmp_path / "outbox.db").next("capture", 5) == [Letter("event-0001", '{"a": 1}', b"audio")]


def test_acknowledged_letters_are_gone_and_refused_ones_are_counted(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.add("telemetry", letters(1, 2, 3))
    outbox.sent("telemetry", ["event-0001"])
    outbox.refused("telemetry", ["event-0002"])
    assert [letter.event_id for letter in outbox.next("telemetry", 5)] == ["event-0003"]
    assert outbox.lost("telemetry") == 1


def test_failed_add_keeps_what_was_there_and_adds_nothing(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.add("telemetry", letters(1))
    with pytest.raises(Exception, match="NOT NULL"):
        outbox.add("telemetry", [Letter("event-0002", "{}"), Letter("event-0003", None)])  # type: ignore[arg-type]
    outbox.add("telemetry", letters(4))
    assert [letter.event_id for letter in outbox.next("telemetry", 5)] == ["event-0001", "event-0004"]


def test_damaged_file_is_set_aside_and_the_device_goes_on(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(b"this is no database, but it is long enough to be read as one" * 50)
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.add("telemetry", letters(1))
    assert outbox.waiting("telemetry") == 1
    assert (tmp_path / "damaged-outbox.db").exists()


def test_a_file_that_is_damaged_while_it_is_in_use_is_set_aside_and_the_device_goes_on(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.add("telemetry", [Letter(f"event-{number:04}", "x" * 3000) for number in range(40)])
    outbox.close()
    data = bytearray((tmp_path / "outbox.db").read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    (tmp_path / "outbox.db").write_bytes(data)
    assert outbox.next("telemetry", 50) == []
    assert outbox.add("telemetry", letters(1))
    assert outbox.waiting("telemetry") == 1
    assert (tmp_path / "damaged-outbox.db").exists()


def test_while_another_process_holds_the_file_nothing_is_kept_but_counted(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.add("telemetry", letters(1))
    outbox._open().execute("PRAGMA busy_timeout=1")
    with closing(sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert outbox.add("telemetry", letters(2)) is False
        outbox.sent("telemetry", ["event-0001"])
        assert (outbox.waiting("telemetry"), outbox.lost("telemetry")) == (0, 1)
        other.execute("ROLLBACK")
    assert outbox.add("telemetry", letters(3))
    outbox.sent("telemetry", [])
    outbox.close()
    again = Outbox(tmp_path / "outbox.db")
    assert [letter.event_id for letter in again.next("telemetry", 5)] == ["event-0003"]
    assert again.lost("telemetry") == 1
    assert not list(tmp_path.glob("damaged-*"))


def test_a_file_that_cannot_even_be_opened_for_another_process_is_left_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELD_SECONDS", 0.001)
    with closing(sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        outbox = Outbox(tmp_path / "outbox.db")
        assert outbox.add("telemetry", letters(1)) is False
        assert outbox.next("telemetry", 5) == []
        other.execute("ROLLBACK")
    assert outbox.add("telemetry", letters(2))
    assert (outbox.waiting("telemetry"), outbox.lost("telemetry")) == (1, 1)


def test_threads_that_add_send_and_count_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each thread's letters are its own; every third is acknowledged, every fifth of the rest refused."""
    outbox = Outbox(tmp_path / "outbox.db")
    threads, each = 4, 40

    def work(thread: int) -> None:
        for number in range(thread * each, (thread + 1) * each):
            assert outbox.add("telemetry", letters(number))
            assert outbox.waiting("telemetry") >= 0
            if number % 3 == 0:
                outbox.sent("telemetry", [f"event-{number:04}"])
            elif number % 5 == 0:
                outbox.refused("telemetry", [f"event-{number:04}"])
            outbox.next("telemetry", 3)
            outbox.lost("telemetry")

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, thread) for thread in range(threads)]:
            done.result()
    numbers = range(threads * each)
    left = {letter.event_id for letter in outbox.next("telemetry", 1000)}
    assert left == {letter.event_id for letter in letters(*(n for n in numbers if n % 3 and n % 5))}
    assert outbox.lost("telemetry") == sum(n % 3 > 0 and n % 5 == 0 for n in numbers)


def test_threads_that_count_what_a_full_disk_costs_count_every_letter(tmp_path: Path) -> None:
    """The count in memory is a read and a write: no other thread comes between."""
    (tmp_path / "file").write_bytes(b"")
    outbox = Outbox(tmp_path / "file" / "outbox.db")  # no folder can be made there
    outbox._uncounted = Slow()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: outbox.add("telemetry", letters(number)), range(40)))
    assert outbox.lost("telemetry") == 40


class Slow(Counter):  # type: ignore[type-arg]
    """Lets other threads go first between reading a count and writing it."""

    def __getitem__(self, key: str) -> int:
        value: int = super().__getitem__(key)
        sleep(0.0005)
        return value
