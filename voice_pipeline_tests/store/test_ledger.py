"""Of two writers that decided upon the same lines one is refused, and nobody else is (tampering: test_checkpoint)."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import insert

from voice_pipeline.store import ledger as ledger_module
from voice_pipeline.store.errors import LedgerConflictError
from voice_pipeline.store.ledger import GENESIS, Stream
from voice_pipeline.store.line_key import LineKey
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import ledger as table

LINES = 8


def fill(store: Store) -> None:
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


def test_of_two_appends_that_expect_the_same_head_one_is_refused(store: Store) -> None:
    fill(store)
    head = store.ledger.head()
    store.ledger.append("transition", "release-1", {"to": "shadow"}, "first", expected_head=head)
    with pytest.raises(LedgerConflictError, match="read again"):
        store.ledger.append("transition", "release-1", {"to": "canary_5"}, "second", expected_head=head)
    assert store.ledger.head() == head + 1
    assert store.ledger.lines()[-1].actor == "first"


@pytest.mark.parametrize(
    ("kind", "subject", "overturns"),
    [
        ("transition", "release-9", True),  # of whatever release
        ("analysis", "release-1", True),  # whatever it says of this one
        ("verdict", "bundle-1", True),
        ("analysis", "release-9", False),
        ("verdict", "bundle-9", False),
        ("erasure", "subject", False),
    ],
)
def test_only_lines_that_the_decision_was_made_upon_overturn_it(
    store: Store, kind: str, subject: str, overturns: bool
) -> None:
    fill(store)
    stream, head = Stream(frozenset({"transition"}), frozenset({"release-1", "bundle-1"})), store.ledger.head()
    for number in range(3):
        store.ledger.append("erasure", f"s{number}", {}, "somebody else")
    store.ledger.append(kind, subject, {}, "somebody else")

    def act() -> None:
        store.ledger.append("transition", "release-1", {}, "me", expected_head=head, stream=stream)

    if overturns:
        with pytest.raises(
            LedgerConflictError, match=rf"somebody else wrote line 12 \({kind} of {subject}\); read again"
        ):
            act()
    else:
        act()
    assert store.ledger.head() == LINES + (4 if overturns else 5)


def test_what_was_decided_upon_lines_that_are_gone_is_refused(store: Store) -> None:
    fill(store)
    with pytest.raises(LedgerConflictError, match=f"upon at ledger line {LINES + 1}, the last is {LINES}"):
        store.ledger.append("transition", "release-1", {}, "me", expected_head=LINES + 1, stream=Stream())


def test_a_number_that_another_writer_took_in_between_is_a_conflict(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on PostgreSQL, where a writer that does not lock the table can come between reading the head and writing."""
    fill(store)
    hashed = ledger_module._hash

    def while_it_is_hashed(line: dict, key: LineKey) -> str:
        monkeypatch.undo()
        taken = {**line, "kind": "erasure", "hash": "0" * 64}
        connection.execute(insert(table).values(taken))
        return hashed(line, key)

    monkeypatch.setattr(ledger_module, "_hash", while_it_is_hashed)
    taken = pytest.raises(LedgerConflictError, match=f"line {LINES + 1} was written by somebody else; read again")
    with taken, store.database.write() as connection:
        store.ledger.append("transition", "release-1", {}, "me", connection=connection)
    assert store.ledger.verify() == LINES


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
