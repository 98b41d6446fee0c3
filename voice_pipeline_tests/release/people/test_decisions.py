"""Decisions: only by those the policy names, only with a reason, only where they mean something."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from voice_pipeline.release.controller import advance, tick
from voice_pipeline.release.errors import DecisionRefusedError, ReleaseRefusedError, UnknownReleaseError
from voice_pipeline.release.people.decisions import pending_decisions, record_decision
from voice_pipeline.schema.monitoring import IncidentKind
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.errors import LedgerBrokenError, LedgerConflictError
from voice_pipeline.store.incidents import open_incidents
from voice_pipeline.store.ledger import Ledger, LedgerLine
from voice_pipeline.store.releases import live
from voice_pipeline.store.tables import alerts
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import Behaviour, World


def test_an_approval_makes_the_first_model_due_and_is_carried_out_once(small: World) -> None:
    model = small.model(0.2)
    view = small.register(model)
    assert tick(small.store, small.policy).due == ()
    record_decision(small.store, view.release_id, Decision.APPROVE, small.person(), "first model")
    due = tick(small.store, small.policy).due
    assert [(step.asset, step.to_state) for step in due] == [("production_release", S.PRODUCTION)]
    live = advance(small.store, small.policy, model, S.PRODUCTION)
    assert live.state is S.PRODUCTION
    assert "approved by demo: first model" in live.transitions[-1].reason
    assert pending_decisions(small.store) == []


def test_nobody_but_the_named_may_approve(small: World) -> None:
    view = small.register(small.model(0.2))
    mallory = small.person("mallory")
    with pytest.raises(DecisionRefusedError, match=r"mallory \(tester\) may not approve"):
        record_decision(small.store, view.release_id, Decision.APPROVE, mallory, "please")
    assert small.store.ledger.lines(kind="decision") == []


def test_a_role_that_the_policy_names_may_approve(small: World) -> None:
    view = small.register(small.model(0.2))
    ann = small.person("ann", role="release-manager")
    record_decision(small.store, view.release_id, Decision.APPROVE, ann, "heard it")
    small.settle()
    assert "approved by ann: heard it" in small.view(view.model_version).transitions[-1].reason


def test_a_decision_needs_a_reason_a_fitting_state_a_release_and_no_gate(small: World) -> None:
    view, demo = small.register(small.model(0.2)), small.person()
    with pytest.raises(DecisionRefusedError, match="needs a reason"):
        record_decision(small.store, view.release_id, Decision.APPROVE, demo, "  ")
    with pytest.raises(DecisionRefusedError, match="fits only"):
        record_decision(small.store, view.release_id, Decision.HOLD, demo, "wait")
    with pytest.raises(DecisionRefusedError, match="names its gate, no other"):
        record_decision(small.store, view.release_id, Decision.APPROVE, demo, "yes", gate="size")
    with pytest.raises(DecisionRefusedError, match="names its gate, no other"):
        record_decision(small.store, view.release_id, Decision.OVERRIDE, demo, "yes")
    for malformed in ("m-20261102-00000000-r1", "", "live", "../../x", "'; --", "m\n\x00"):
        with pytest.raises(UnknownReleaseError, match="release status"):
            record_decision(small.store, malformed, Decision.HOLD, demo, "wait")
    assert small.store.ledger.lines(kind="decision") == []
    assert pending_decisions(small.store) == []


def test_a_rejected_candidate_stays_rejected(small: World) -> None:
    model = small.model(0.2)
    view = small.register(model)
    record_decision(small.store, view.release_id, Decision.REJECT, small.person("ann"), "wrong data")
    small.settle()
    assert small.view(model).state is S.REJECTED
    assert small.register(model).state is S.REJECTED


@pytest.mark.parametrize("approved", [False, True])
def test_a_rejection_that_waits_is_not_overtaken_by_a_run_in_flight(small: World, approved: bool) -> None:
    """Two people decided; the run that the first one's word, or the gates, made due comes before the sensor's tick."""
    if not approved:
        small.bootstrap(small.model(0.3))
    model = small.model(0.2)
    view = small.register(model)
    to_state = S.PRODUCTION if approved else S.SHADOW
    if approved:
        record_decision(small.store, view.release_id, Decision.APPROVE, small.person(), "first model")
    due = [step.to_state for step in tick(small.store, small.policy).due]
    assert due == [to_state]
    record_decision(small.store, view.release_id, Decision.REJECT, small.person("ann"), "wrong data")
    with pytest.raises(ReleaseRefusedError, match="has to carry out first: reject by ann: wrong data"):
        advance(small.store, small.policy, model, to_state)
    assert tick(small.store, small.policy).decided == (view.release_id,)
    assert small.view(model).state is S.REJECTED


def test_a_rejection_of_who_may_not_any_more_holds_nothing_up(small: World) -> None:
    small.bootstrap(small.model(0.3))
    model = small.model(0.2)
    view = small.register(model)
    record_decision(small.store, view.release_id, Decision.REJECT, small.person("ann"), "wrong data")
    small.removes("ann")
    assert advance(small.store, small.policy, model, S.SHADOW).state is S.SHADOW


def test_a_decision_that_came_too_late_is_told_of_once(small: World) -> None:
    """Resumed, but before the sensor's tick somebody rolled it back."""
    model = in_stage(small, S.SHADOW)
    release_id = small.view(model).release_id
    record_decision(small.store, release_id, Decision.HOLD, small.person(), "look closer")
    record_decision(small.store, release_id, Decision.RESUME, small.person(), "fine")
    record_decision(small.store, release_id, Decision.ROLLBACK, small.person("ann"), "not fine")
    (note, *_) = tick(small.store, small.policy).notes
    assert note.startswith(
        f"{release_id} is rolled_back (rollback by ann: not fine); this came too late: resume by demo"
    )
    tick(small.store, small.policy)
    assert small.alerts("a decision was not carried out") == [note]
    (line,) = small.store.ledger.lines(kind="decision_lapsed")
    assert line.payload["decision"] == "resume"
    assert pending_decisions(small.store) == []


def refused(world: World, release_id: str, decision: Decision) -> str:
    """What it says after the states that would fit."""
    with pytest.raises(DecisionRefusedError) as error:
        record_decision(world.store, release_id, decision, world.person(), "because")
    return str(error.value).partition(" fits only ")[2].partition("; ")[2].replace("voice-pipeline release ", "")


ANOTHER = "ask for another model: `voice-pipeline training request REASON ACTOR`"


def test_a_decision_that_does_not_fit_says_which_command_does(small: World) -> None:
    first = small.register(small.model(0.2)).release_id
    assert refused(small, first, Decision.HOLD) == f"now: `approve {first}`, `reject {first}`"
    record_decision(small.store, first, Decision.APPROVE, small.person(), "go")
    small.settle()
    assert refused(small, first, Decision.HOLD) == f"now: `rollback {first}`"
    small.report()
    gated = small.register(small.model(0.1)).release_id
    begins = "rollout_sensor begins its rollout, no sign-off is needed"
    assert refused(small, gated, Decision.APPROVE) == f"{begins}; now: `reject {gated}`"
    worse = small.register(small.model(0.2))
    assert worse.state is S.REJECTED
    override = f"its gates ended it: `override {worse.release_id} --gate GATE` where the policy lets, or {ANOTHER}"
    assert refused(small, worse.release_id, Decision.HOLD) == override


def test_in_a_rollout_a_decision_that_does_not_fit_says_what_stops_it_and_lets_it_go_on(small: World) -> None:
    release_id = small.view(in_stage(small, S.CANARY_5)).release_id
    stops = f"it goes on by its figures; now: `hold {release_id}`, `rollback {release_id}`"
    assert refused(small, release_id, Decision.REJECT) == stops
    record_decision(small.store, release_id, Decision.HOLD, small.person(), "look closer")
    assert refused(small, release_id, Decision.APPROVE) == f"now: `resume {release_id}`, `rollback {release_id}`"
    record_decision(small.store, release_id, Decision.ROLLBACK, small.person(), "no")
    assert refused(small, release_id, Decision.RESUME) == f"`readmit {release_id}` lets it come back"


def test_of_what_harm_ended_nobody_is_sent_to_readmit_it(small: World) -> None:
    harmed = in_stage(small, S.CANARY_25, Behaviour(correction=0.95))
    small.report()
    tick(small.store, small.policy)
    gone = f"harm ended it, and it does not come back; {ANOTHER}"
    assert refused(small, small.view(harmed).release_id, Decision.RESUME) == gone


def test_an_approval_given_before_the_last_judgement_lapses(small: World) -> None:
    """Approved against an empty installation, but meanwhile another model went live."""
    early, other = small.model(0.2), small.model(0.3)
    view = small.register(early)
    small.register(other)
    record_decision(small.store, view.release_id, Decision.APPROVE, small.person(), "first model")
    record_decision(small.store, small.view(other).release_id, Decision.APPROVE, small.person(), "first model")
    advance(small.store, small.policy, other, S.PRODUCTION)
    small.settle()
    story = [step.to_state for step in small.view(early).transitions]
    assert S.PRODUCTION not in story
    assert small.view(early).state is S.SHADOW
    assert pending_decisions(small.store) == []


def test_a_live_model_is_rolled_back_at_once_and_no_sensor_runs(small: World) -> None:
    model = in_stage(small, S.SHADOW)
    other = live(small.store)
    assert other is not None
    head = small.store.ledger.head()
    with pytest.raises(DecisionRefusedError, match="fits only"):
        record_decision(small.store, other.release_id, Decision.RESUME, small.person(), "go on")
    assert small.store.ledger.head() == head
    record_decision(small.store, other.release_id, Decision.ROLLBACK, small.person("ann"), "complaints")
    assert small.view(other.model_version).state is S.ROLLED_BACK
    assert small.view(model).state is S.ROLLED_BACK  # it ran beside the one that is gone
    assert len(open_incidents(small.store, IncidentKind.RELEASE_HARM)) == 2
    titles = [row["title"] for row in small.store.database.rows(alerts.select())]
    assert sum(title.startswith("rolled back ") for title in titles) == 2
    assert pending_decisions(small.store) == []


def test_a_rollout_is_held_at_once_and_resumed_by_the_next_tick(small: World) -> None:
    model = in_stage(small, S.SHADOW)
    release_id = small.view(model).release_id
    record_decision(small.store, release_id, Decision.HOLD, small.person("ann"), "looks odd")
    held = small.view(model)
    assert (held.state, held.transitions[-1].reason) == (S.HELD, "hold by ann: looks odd")
    record_decision(small.store, release_id, Decision.RESUME, small.person(), "it was nothing")
    assert small.view(model).state is S.HELD
    tick(small.store, small.policy)
    assert small.view(model).state is S.SHADOW
    assert small.view(model).transitions[-1].actor == "demo"


def test_a_rollback_that_a_busy_controller_comes_before_is_decided_anew(
    small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.bootstrap(small.model(0.2))
    now, append, first = live(small.store), Ledger.append, ["taken"]
    assert now is not None

    def conflicting(*arguments: Any, **options: Any) -> LedgerLine:
        if first:
            raise LedgerConflictError(first.pop())
        return append(*arguments, **options)

    monkeypatch.setattr(Ledger, "append", conflicting)
    record_decision(small.store, now.release_id, Decision.ROLLBACK, small.person(), "complaints")
    assert small.view(now.model_version).state is S.ROLLED_BACK
    assert len(small.store.ledger.lines(kind="decision", subject=now.release_id)) == 2


def test_nothing_is_decided_upon_a_ledger_that_was_changed(small: World) -> None:
    view, demo = small.bootstrap(small.model(0.2)), small.person()
    with small.store.database.write() as connection:
        connection.execute(text("UPDATE ledger SET payload = replace(payload, 'first model', 'no model')"))
    with pytest.raises(LedgerBrokenError):
        record_decision(small.store, view.release_id, Decision.ROLLBACK, demo, "complaints")


def test_to_resume_counts_for_the_hold_that_the_person_saw_and_is_said_once(small: World) -> None:
    model = in_stage(small, S.SHADOW)
    release_id, demo = small.view(model).release_id, small.person()
    record_decision(small.store, release_id, Decision.HOLD, demo, "looks odd")
    record_decision(small.store, release_id, Decision.RESUME, demo, "it was nothing")
    with pytest.raises(DecisionRefusedError, match="resume by demo: it was nothing"):
        record_decision(small.store, release_id, Decision.RESUME, demo, "it was nothing, I say")
    tick(small.store, small.policy)
    assert small.view(model).state is S.SHADOW
    record_decision(small.store, release_id, Decision.HOLD, demo, "now it is harm")
    tick(small.store, small.policy)
    assert small.view(model).state is S.HELD
    record_decision(small.store, release_id, Decision.RESUME, demo, "nor was that")
    record_decision(small.store, release_id, Decision.ROLLBACK, demo, "it is harm")
    tick(small.store, small.policy)
    assert small.view(model).state is S.ROLLED_BACK
    assert pending_decisions(small.store) == []
