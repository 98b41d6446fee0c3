"""Attacks on decisions, by somebody who can write into the database but has no key of a person named by the policy."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from voice_pipeline.release.controller import advance, tick
from voice_pipeline.release.errors import ReleaseRefusedError, UnverifiedDecisionError
from voice_pipeline.release.people.decisions import (
    DECISION,
    PAYLOAD_TYPE,
    approval_of,
    pending_decisions,
    record_decision,
    unsigned_decisions,
    verified,
)
from voice_pipeline.release.people.keys import PersonKey
from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.schema.release import Decision, DecisionStatement
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.ledger import LedgerLine
from voice_pipeline.store.releases import ReleaseView
from voice_pipeline.store.tables import alerts, decisions
from voice_pipeline_tests.release.people.tampering import tampered
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import World


def statement(world: World, view: ReleaseView, **other: object) -> DecisionStatement:
    """A true approval of `view`, but for `other`."""
    fields: dict[str, Any] = {
        "decision_id": "dec-0123456789abcdef",
        "release_id": view.release_id,
        "bundle_digest": view.bundle_digest,
        "policy_digest": world.policy.digest,
        "decision": Decision.APPROVE,
        "gate": None,
        "reason": "fine",
        "at": world.store.now(),
        "seen_seq": view.transitions[-1].seq,
    }
    return DecisionStatement(**{**fields, **other})


def in_plain_words(said: DecisionStatement) -> dict[str, Any]:
    """What a ledger line says beside the envelope."""
    return said.model_dump(mode="json", include={"decision_id", "decision", "gate", "reason"})


def plant(
    world: World, view: ReleaseView, said: DecisionStatement, key: PersonKey, name: str = "demo", row: bool = True
) -> LedgerLine:
    """Write a decision into the database past `record_decision`: a ledger line and the row that asks for it."""
    payload = {**in_plain_words(said), "envelope": key.sign(canonical_json(said), PAYLOAD_TYPE)}
    line = world.store.ledger.append(DECISION, view.release_id, payload, name)
    if row:
        queue(world, said.decision_id, view.release_id, said.decision)
    return line


def queue(world: World, decision_id: str, release_id: str, decision: str = "approve") -> None:
    row = {"decision_id": decision_id, "release_id": release_id, "decision": decision, "actor": "demo"}
    with world.store.database.write() as connection:
        connection.execute(decisions.insert(), {**row, "reason": "r", "at": world.store.now().isoformat()})


def waiting(world: World) -> ReleaseView:
    """A release that awaits its sign-off."""
    world.person()
    return world.register(world.model(0.2))


def counts_for_nothing(world: World, view: ReleaseView, why: str) -> None:
    """The tick refuses it once, tells people, and nothing has moved."""
    before = [step.seq for step in view.transitions]
    told = tick(world.store, world.policy)
    assert any(why in note for note in told.notes), told.notes
    assert told.due == ()
    with pytest.raises(ReleaseRefusedError, match="nobody has signed it off"):
        advance(world.store, world.policy, view.model_version, S.PRODUCTION)
    assert [step.seq for step in world.view(view.model_version).transitions] == before
    assert pending_decisions(world.store) == []
    titles = [row["title"] for row in world.store.database.rows(alerts.select())]
    assert titles.count("a decision was refused") == 1
    assert not any(why in note for note in tick(world.store, world.policy).notes)
    (refused,) = world.store.ledger.lines(kind="decision_refused")
    assert why in refused.payload["reason"]


def test_the_planted_decision_counts_if_it_is_true_in_everything(small: World) -> None:
    """What the attacks below change is therefore what stops them."""
    view = waiting(small)
    plant(small, view, statement(small, view), small.person())
    assert [step.to_state for step in tick(small.store, small.policy).due] == [S.PRODUCTION]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (lambda world, _: {"release_id": world.register(world.model(0.3)).release_id}, "says something else"),
        (lambda *_: {"bundle_digest": "0" * 64}, "it was signed for"),
        (lambda _, view: {"seen_seq": view.transitions[0].seq}, "was the last of the release"),
        (lambda *_: {"seen_seq": 10_000}, "was the last of the release"),
        (lambda world, _: {"at": world.store.now() - timedelta(hours=1)}, "not when it was recorded"),
        (lambda world, _: {"at": world.store.now() + timedelta(hours=1)}, "not when it was recorded"),
    ],
    ids=["another release", "another bundle", "an earlier state", "a later state", "kept for later", "ahead of time"],
)
def test_a_statement_about_something_else_counts_for_nothing(
    small: World, other: Callable[[World, ReleaseView], dict[str, object]], why: str
) -> None:
    view = waiting(small)
    plant(small, view, statement(small, view, **other(small, view)), small.person())
    counts_for_nothing(small, view, why)


def test_a_statement_signed_by_somebody_else_counts_for_nothing(small: World) -> None:
    view = waiting(small)
    plant(small, view, statement(small, view), small.person("ann"), name="demo")
    counts_for_nothing(small, view, "not signed by demo")


def test_a_statement_signed_by_somebody_who_may_not_counts_for_nothing(small: World) -> None:
    view = waiting(small)
    plant(small, view, statement(small, view), small.person("ann"), name="ann")
    counts_for_nothing(small, view, "ann may not approve")


def test_a_forged_signature_counts_for_nothing(small: World) -> None:
    view = waiting(small)
    said = statement(small, view)
    envelope = small.person().sign(canonical_json(said), PAYLOAD_TYPE)
    signature = bytearray(base64.b64decode(envelope["signatures"][0]["sig"]))
    signature[5] ^= 1
    envelope["signatures"][0]["sig"] = base64.b64encode(bytes(signature)).decode()
    plain = {
        k: v for k, v in said.model_dump(mode="json").items() if k in ("decision_id", "decision", "gate", "reason")
    }
    small.store.ledger.append(DECISION, view.release_id, {**plain, "envelope": envelope}, "demo")
    queue(small, said.decision_id, view.release_id)
    counts_for_nothing(small, view, "not signed by demo")


@pytest.mark.parametrize(
    ("payload_type", "change"),
    [
        ("application/vnd.in-toto+json", lambda signed: signed),
        (PAYLOAD_TYPE, lambda signed: signed.replace(b",", b", ")),
        (PAYLOAD_TYPE, lambda signed: signed.replace(b"{", b'{"decision":"reject",', 1)),
    ],
    ids=["signed for something else", "other bytes", "said twice"],
)
def test_what_demo_signed_in_another_form_is_no_decision(
    small: World, payload_type: str, change: Callable[[bytes], bytes]
) -> None:
    view = waiting(small)
    said = statement(small, view)
    envelope = small.person().sign(change(canonical_json(said)), payload_type)
    small.store.ledger.append(DECISION, view.release_id, {**in_plain_words(said), "envelope": envelope}, "demo")
    queue(small, said.decision_id, view.release_id)
    counts_for_nothing(small, view, "what is signed is no decision")


@pytest.mark.parametrize(
    "payload",
    [
        {"decision_id": "dec-0123456789abcdef", "decision": "approve", "reason": "fine"},
        {"decision_id": "dec-0123456789abcdef", "decision": "approve", "reason": "fine", "gate": None, "envelope": {}},
        {"decision_id": "dec-0123456789abcdef", "decision": "approve", "envelope": {"payload": "", "signatures": []}},
        {"decision_id": "dec-0123456789abcdef", "decision": ["approve"], "envelope": {"payload": 7, "signatures": 7}},
    ],
    ids=["as before there were signatures", "an empty envelope", "no signature", "no sense"],
)
def test_a_ledger_line_written_by_hand_counts_for_nothing(small: World, payload: dict[str, Any]) -> None:
    view = waiting(small)
    small.store.ledger.append(DECISION, view.release_id, payload, "demo")
    assert approval_of(small.store, small.policy, view) is None
    queue(small, "dec-0123456789abcdef", view.release_id)
    counts_for_nothing(small, view, "not signed by demo")
    assert unsigned_decisions(small.store)[0] == 1
    assert "not signed by demo" in unsigned_decisions(small.store)[1][0]


def test_a_ledger_line_that_is_no_object_stops_nothing(small: World) -> None:
    view = waiting(small)
    small.store.ledger.append(DECISION, view.release_id, ["approve"], "demo")  # type: ignore[arg-type]
    assert tick(small.store, small.policy).due == ()
    record_decision(small.store, view.release_id, Decision.APPROVE, small.person(), "fine")
    assert tick(small.store, small.policy).due


@pytest.mark.parametrize(
    ("decision_id", "release_id"), [("dec-x", None), ("dec-x", "nothing"), ("", ""), (b"\xff\xfe", b"\xff")]
)
def test_a_row_written_by_hand_counts_for_nothing(small: World, decision_id: Any, release_id: Any) -> None:
    view = waiting(small)
    with small.store.database.write() as connection:
        connection.exec_driver_sql(
            "INSERT INTO decisions (decision_id, release_id, decision, actor, reason, at) VALUES (?, ?, ?, ?, ?, ?)",
            (decision_id, view.release_id if release_id is None else release_id, "approve", "demo", "r", "2026"),
        )
    counts_for_nothing(small, view, "has no ledger line")


def test_what_is_refused_does_not_keep_the_next_decision_waiting(small: World) -> None:
    view = waiting(small)
    queue(small, "dec-x", view.release_id)
    record_decision(small.store, view.release_id, Decision.REJECT, small.person("ann"), "wrong data")
    result = tick(small.store, small.policy)
    assert result.decided == (view.release_id,)
    assert small.view(view.model_version).state is S.REJECTED


def test_what_a_person_signed_who_was_removed_since_counts_for_nothing(small: World) -> None:
    view = waiting(small)
    record_decision(small.store, view.release_id, Decision.APPROVE, small.person(), "fine")
    assert tick(small.store, small.policy).due
    small.removes("demo")
    counts_for_nothing(small, view, "demo was removed since")
    assert unsigned_decisions(small.store) == (1, [])  # it was signed well, then


def test_a_former_person_of_the_same_name_does_not_lend_their_signature(small: World) -> None:
    view = waiting(small)
    record_decision(small.store, view.release_id, Decision.APPROVE, small.person(), "fine")
    small.removes("demo")
    small.person()
    counts_for_nothing(small, view, "demo was removed since")


def test_a_person_enrolled_later_than_they_decided_counts_for_nothing(small: World) -> None:
    view = small.register(small.model(0.2))
    key = small.person("ann")
    plant(small, view, statement(small, view), replace(key, name="demo"))
    small.removes("ann")
    small.person()
    counts_for_nothing(small, view, "demo was not enrolled then")
    assert "was not enrolled then" in unsigned_decisions(small.store)[1][0]


def test_a_person_whom_the_policy_names_no_more_counts_for_nothing(small: World) -> None:
    view = waiting(small)
    record_decision(small.store, view.release_id, Decision.APPROVE, small.person(), "fine")
    stricter = {**small.policy.authority, Decision.APPROVE: ("release-manager",)}
    policy = small.policy.model_copy(update={"authority": stricter})
    assert approval_of(small.store, policy, view) is None
    assert any("demo may not approve" in note for note in tick(small.store, policy).notes)


def test_the_line_of_another_release_counts_for_nothing_here(small: World) -> None:
    view, other = waiting(small), small.register(small.model(0.3))
    record_decision(small.store, other.release_id, Decision.APPROVE, small.person(), "fine")
    (line,) = small.store.ledger.lines(kind=DECISION)
    small.store.ledger.append(DECISION, view.release_id, line.payload, "demo")
    assert approval_of(small.store, small.policy, view) is None
    assert approval_of(small.store, small.policy, other) is not None


def test_a_copy_of_a_line_counts_for_nothing(small: World) -> None:
    """The first time it was carried out; the second time it is nobody's word."""
    view = waiting(small)
    line = plant(small, view, statement(small, view), small.person(), row=False)
    again = small.store.ledger.append(DECISION, view.release_id, line.payload, "demo")
    assert verified(small.store, small.policy, line, view).decision_id == line.payload["decision_id"]
    with pytest.raises(UnverifiedDecisionError, match="copy of an earlier line"):
        verified(small.store, small.policy, again, view)


def test_a_decision_that_was_carried_out_is_not_carried_out_again(small: World) -> None:
    """Somebody marks the rows as waiting once more, and adds one for the hold."""
    model = in_stage(small, S.SHADOW)
    release_id, demo = small.view(model).release_id, small.person()
    held = record_decision(small.store, release_id, Decision.HOLD, demo, "looks odd")
    record_decision(small.store, release_id, Decision.RESUME, demo, "it was nothing")
    tick(small.store, small.policy)
    queue(small, held.decision_id, release_id, "hold")
    tick(small.store, small.policy)
    assert small.view(model).state is S.SHADOW
    assert "hold never waits" in small.store.ledger.lines(kind="decision_refused")[0].payload["reason"]
    record_decision(small.store, release_id, Decision.HOLD, demo, "now it is harm")
    with small.store.database.write() as connection:
        connection.execute(update(decisions).values(applied_seq=None))
    tick(small.store, small.policy)
    assert small.view(model).state is S.HELD


@pytest.fixture
def recorded(small: World) -> tuple[World, ReleaseView, LedgerLine]:
    """A good approval, to change."""
    view = waiting(small)
    record_decision(small.store, view.release_id, Decision.APPROVE, small.person(), "fine")
    return small, view, small.store.ledger.lines(kind=DECISION)[0]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_change_of_what_is_signed_survives(
    recorded: tuple[World, ReleaseView, LedgerLine], data: st.DataObject
) -> None:
    world, view, line = recorded
    changed = tampered(line, data, "actor", "seq")
    if changed == line:
        return
    with pytest.raises(UnverifiedDecisionError):
        verified(world.store, world.policy, changed, view)
