"""The ledger shows every tampering, and of two writers that decided on the same head one is refused."""

from __future__ import annotations

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, update

from voice_pipeline.store.errors import LedgerBrokenError, LedgerConflictError
from voice_pipeline.store.ledger import GENESIS
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import ledger as table

LINES = 8
several = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def fill(store: Store) -> None:
    with store.database.write() as connection:
        connection.execute(delete(table))
    for number in range(LINES):
        store.ledger.append("verdict", f"release-{number % 3}", {"number": number, "wer": 0.1}, "controller")


def test_lines_come_back_in_order_and_the_chain_verifies(store: Store) -> None:
    fill(store)
    lines = store.ledger.lines()
    assert [line.payload["number"] for line in lines] == list(range(LINES))
    assert lines[0].prev_hash == GENESIS
    assert store.ledger.verify() == store.ledger.head() == LINES
    assert [line.seq for line in store.ledger.lines("verdict", "release-1")] == [2, 5, 8]
    assert store.ledger.lines("transition") == []


TAMPERED = {
    "payload": '{"number":99,"wer":0.0}',
    "actor": "somebody else",
    "subject": "release-x",
    "kind": "transition",
    "at": "2020-01-01T00:00:00+00:00",
    "prev_hash": "f" * 64,
    "hash": "e" * 64,
}


@several
@given(seq=st.integers(min_value=1, max_value=LINES), column=st.sampled_from(sorted(TAMPERED)))
def test_a_change_to_any_column_of_any_line_is_detected(store: Store, seq: int, column: str) -> None:
    fill(store)
    with store.database.write() as connection:
        connection.execute(update(table).where(table.c.seq == seq).values({column: TAMPERED[column]}))
    with pytest.raises(LedgerBrokenError, match=rf"ledger line ({seq}|{seq + 1}) was changed"):
        store.ledger.verify()


@several
@given(seq=st.integers(min_value=1, max_value=LINES - 1))
def test_a_removed_line_is_detected(store: Store, seq: int) -> None:
    fill(store)
    with store.database.write() as connection:
        connection.execute(delete(table).where(table.c.seq == seq))
    with pytest.raises(LedgerBrokenError, match=f"ledger line {seq} is missing"):
        store.ledger.verify()


@several
@given(pair=st.lists(st.integers(min_value=1, max_value=LINES), min_size=2, max_size=2, unique=True))
def test_two_lines_that_change_places_are_detected(store: Store, pair: list[int]) -> None:
    fill(store)
    first, second = pair
    with store.database.write() as connection:
        for old, new in ((first, 1000), (second, first), (1000, second)):
            connection.execute(update(table).where(table.c.seq == old).values(seq=new))
    with pytest.raises(LedgerBrokenError):
        store.ledger.verify()


def test_of_two_appends_that_expect_the_same_head_one_is_refused(store: Store) -> None:
    fill(store)
    head = store.ledger.head()
    store.ledger.append("transition", "release-1", {"to": "shadow"}, "first", expected_head=head)
    with pytest.raises(LedgerConflictError, match="read again"):
        store.ledger.append("transition", "release-1", {"to": "canary_5"}, "second", expected_head=head)
    assert store.ledger.head() == head + 1
    assert store.ledger.lines()[-1].actor == "first"


def test_of_many_appenders_at_once_exactly_one_wins_each_head(store: Store) -> None:
    won: list[int] = []

    def decide(number: int) -> None:
        other = Store.open(store.settings, store.clock)
        for head in range(5):
            try:
                other.ledger.append("transition", "r", {"by": number}, str(number), expected_head=head)
                won.append(head)
            except LedgerConflictError:
                continue

    threads = [threading.Thread(target=decide, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == sorted(set(won))
    assert store.ledger.verify() == len(won)


def test_an_append_in_a_transaction_that_fails_never_happened(store: Store) -> None:
    def decide_and_fail() -> None:
        with store.database.write() as connection:
            store.ledger.append("verdict", "r", {}, "controller", connection=connection)
            raise RuntimeError("the rest of the decision failed")

    with pytest.raises(RuntimeError):
        decide_and_fail()
    assert store.ledger.head() == 0


def test_a_payload_that_has_no_canonical_form_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="JSON"):
        store.ledger.append("verdict", "r", {"wer": float("nan")}, "controller")
    assert store.ledger.head() == 0
