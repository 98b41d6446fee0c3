"""Decisions: only by those the policy names, only with a reason, only where they mean something."""

from __future__ import annotations

import pytest

from voice_pipeline.release.controller import advance, tick
from voice_pipeline.release.decisions import pending_decisions, record_decision
from voice_pipeline.release.errors import DecisionRefusedError, ReleaseRefusedError, UnknownReleaseError
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.tables import decisions
from voice_pipeline_tests.release.world import World


def test_an_approval_makes_the_first_model_due_and_is_carried_out_once(small: World) -> None:
    model = small.model(0.2)
    view = small.register(model)
    assert tick(small.store, small.policy).due == ()
    record_decision(small.store, view.release_id, Decision.APPROVE, "demo", "first model")
    due = tick(small.store, small.policy).due
    assert [(step.asset, step.to_state) for step in due] == [("production_release", S.PRODUCTION)]
    live = advance(small.store, small.policy, model, S.PRODUCTION)
    assert live.state is S.PRODUCTION
    assert "approved by demo: first model" in live.transitions[-1].reason
    assert pending_decisions(small.store) == []


def test_nobody_but_the_named_may_approve(small: World) -> None:
    view = small.register(small.model(0.2))
    with pytest.raises(DecisionRefusedError, match="mallory may not approve"):
        record_decision(small.store, view.release_id, Decision.APPROVE, "mallory", "please")


def test_an_approval_written_into_the_table_by_hand_approves_nothing(small: World) -> None:
    model = small.model(0.2)
    view = small.register(model)
    row = {"decision_id": "dec-x", "release_id": view.release_id, "decision": "approve", "actor": "demo"}
    with small.store.database.write() as connection:
        connection.execute(decisions.insert(), {**row, "reason": "r", "at": small.store.now().isoformat()})
    assert tick(small.store, small.policy).due == ()
    with pytest.raises(ReleaseRefusedError, match="nobody has signed it off"):
        advance(small.store, small.policy, model, S.PRODUCTION)


def test_a_decision_needs_a_reason_a_fitting_state_and_a_release(small: World) -> None:
    view = small.register(small.model(0.2))
    with pytest.raises(DecisionRefusedError, match="needs a reason"):
        record_decision(small.store, view.release_id, Decision.APPROVE, "demo", "  ")
    with pytest.raises(DecisionRefusedError, match="fits only"):
        record_decision(small.store, view.release_id, Decision.HOLD, "demo", "wait")
    with pytest.raises(UnknownReleaseError):
        record_decision(small.store, "m-20261102-00000000-r1", Decision.HOLD, "demo", "wait")


def test_a_rejected_candidate_stays_rejected(small: World) -> None:
    model = small.model(0.2)
    view = small.register(model)
    record_decision(small.store, view.release_id, Decision.REJECT, "anyone", "wrong data")
    small.settle()
    assert small.view(model).state is S.REJECTED
    assert small.register(model).state is S.REJECTED


def test_an_approval_given_before_the_last_judgement_lapses(small: World) -> None:
    """Approved against an empty installation, but meanwhile another model went live."""
    early, other = small.model(0.2), small.model(0.3)
    view = small.register(early)
    small.register(other)
    record_decision(small.store, view.release_id, Decision.APPROVE, "demo", "first model")
    record_decision(small.store, small.view(other).release_id, Decision.APPROVE, "demo", "first model")
    advance(small.store, small.policy, other, S.PRODUCTION)
    small.settle()
    story = [step.to_state for step in small.view(early).transitions]
    assert S.PRODUCTION not in story
    assert small.view(early).state is S.SHADOW
    assert pending_decisions(small.store) == []
