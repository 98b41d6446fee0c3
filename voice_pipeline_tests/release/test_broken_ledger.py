"""On a ledger that somebody tampered with, nothing of the engine moves, and each command says what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, update

from voice_pipeline.release import rollback
from voice_pipeline.release.candidate import register_candidate
from voice_pipeline.release.controller import advance, tick
from voice_pipeline.release.gates.evidence import VERDICT, stored_verdicts
from voice_pipeline.release.people.decisions import record_decision
from voice_pipeline.release.people.overrides import verdict_in
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.checkpoint import CHECKPOINT, KEY
from voice_pipeline.store.errors import LedgerBrokenError
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import alerts as alert_table
from voice_pipeline.store.tables import ledger
from voice_pipeline_tests.command_line import run
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import Behaviour, World
from voice_pipeline_tests.store.test_checkpoint import chained, key_of, put, rows_of


def edited(store: Store) -> None:
    with store.database.write() as connection:
        payload = func.replace(ledger.c.payload, '"canary_5"', '"canary_50"')
        connection.execute(update(ledger).values(payload=payload))


def cut(store: Store) -> None:
    """The look that failed, or the rollback, was never there."""
    with store.database.write() as connection:
        connection.execute(delete(ledger).where(ledger.c.seq == store.ledger.head()))


def written_anew(store: Store) -> None:
    rows = rows_of(store)
    rows[3]["actor"] = "somebody else"
    put(store, chained(rows, key_of(store)))


def line_put_in(store: Store) -> None:
    with store.database.write() as connection:
        last = dict(connection.execute(select(ledger).order_by(ledger.c.seq.desc()).limit(1)).mappings().one())
        connection.execute(insert(ledger), {**last, "seq": last["seq"] + 1, "hash": "f" * 64})


def without_its_note(store: Store) -> None:
    (store.settings.root / CHECKPOINT).unlink()


def alerts(store: Store) -> list[tuple[str, str]]:
    return [(row["title"], row["body"]) for row in store.database.rows(select(alert_table))]


TAMPERED = {
    edited: r"ledger line \d+ was changed",
    cut: r"ledger ends at line \d+, \d+ were there",
    written_anew: rf"ledger line \d+ is not the one that {CHECKPOINT} names",
    line_put_in: r"ledger line \d+ was changed",
    without_its_note: f"{CHECKPOINT} is missing",
}


@pytest.mark.parametrize("tamper", TAMPERED, ids=lambda tamper: tamper.__name__)
def test_nothing_moves_and_the_reason_is_named(
    small: World,
    tamper: Callable[[Store], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = in_stage(small, S.CANARY_5, Behaviour(correction=0.95))
    small.report()
    person, other = small.person(), small.model(0.05, network_bytes=1000)
    view, policy = small.view(model), small.policy
    tamper(small.store)
    before = rows_of(small.store)
    for store in (small.store, Store.open(small.store.settings, small.clock)):
        for act in (
            lambda store=store: tick(store, policy),
            lambda store=store: advance(store, policy, model, S.CANARY_25),
            lambda store=store: register_candidate(store, policy, other),
            lambda store=store: record_decision(store, view.release_id, Decision.RESUME, person, "go on"),
        ):
            with pytest.raises(LedgerBrokenError, match=rf"{TAMPERED[tamper]}.*docs/runbook\.md"):
                act()
    assert rows_of(small.store) == before
    told = [title for title, _ in alerts(small.store)]
    assert told.count("the ledger does not verify") == 1, "of two ticks"
    monkeypatch.setenv("VOICE_PIPELINE_HOME", str(small.store.settings.root))
    assert run(monkeypatch, "release", "verify") == 1
    assert "restore the whole home from a backup" in capsys.readouterr().err
    assert run(monkeypatch, "release", "status") == 1
    said = capsys.readouterr()
    assert re.search(TAMPERED[tamper], said.err)
    assert said.out == "", "a table of a ledger that was changed"


def test_a_new_note_is_made_by_command_only_and_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        store.ledger.append("erasure", f"s{number}", {}, "device")
    monkeypatch.setenv("VOICE_PIPELINE_HOME", str(store.settings.root))
    assert run(monkeypatch, "release", "verify", "--found-checkpoint") == 1
    assert "nothing to found" in capsys.readouterr().err
    put(store, rows_of(store)[:2])
    (store.settings.root / CHECKPOINT).unlink()
    (store.settings.keys / KEY).unlink()
    assert run(monkeypatch, "release", "verify") == 1
    assert "--found-checkpoint" in capsys.readouterr().err
    assert run(monkeypatch, "release", "verify", "--found-checkpoint") == 0
    assert "3 ledger lines verify" in capsys.readouterr().out
    assert alerts(store)[0][1].startswith("a new ledger.checkpoint vouches for the 2 lines that are here. Whether more")


@pytest.mark.parametrize("payload", [{}, {"gate": "regression"}, [], "x", None])
def test_a_verdict_line_that_holds_no_verdict_counts_as_none(store: Store, payload: Any) -> None:
    line = store.ledger.append(VERDICT, "b" * 64, payload, "somebody")
    assert verdict_in(line) is None
    assert stored_verdicts(store, "b" * 64, "p" * 64) == {}


def test_harm_is_undone_even_when_nobody_can_be_told(small: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, a tick told of an earlier rollback before it looked: a full disk kept harm from being undone."""
    first = in_stage(small, S.CANARY_25)
    record_decision(small.store, small.view(first).release_id, Decision.ROLLBACK, small.person(), "complaints")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with small.store.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM alerts")
    second = small.model(0.05, network_bytes=1000)
    small.register(second)
    advance(small.store, small.policy, second, S.SHADOW)
    small.shadow[second] = Behaviour(correction=0.95)
    small.report()
    monkeypatch.setattr(rollback, "raise_alert", full_disk)
    with pytest.raises(OSError, match="No space"):
        tick(small.store, small.policy)
    assert small.view(second).state is S.ROLLED_BACK
