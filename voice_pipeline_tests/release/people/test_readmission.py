"""What people ended by mistake comes back whole, through everything; what figures ended never does."""

from __future__ import annotations

import pytest

from voice_pipeline.release.candidate import awaiting_registration
from voice_pipeline.release.carrying_out import readmit
from voice_pipeline.release.controller import tick
from voice_pipeline.release.errors import DecisionRefusedError, UnknownReleaseError
from voice_pipeline.release.people.decisions import record_decision
from voice_pipeline.release.people.fitting import may_come_back
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.releases import find_release, live, release_views
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import Behaviour, World

WHY = "the complaints were about another app"


def taken_back(world: World, state: S = S.CANARY_5) -> str:
    model = in_stage(world, state)
    record_decision(world.store, world.view(model).release_id, Decision.ROLLBACK, world.person(), "complaints")
    return model


def test_it_goes_through_every_gate_and_every_stage_again(small: World) -> None:
    model = taken_back(small, S.CANARY_25)
    first = small.view(model)
    assert small.register(model) == first
    assert awaiting_registration(small.store) == []
    readmit(small.store, first.release_id, small.person(), WHY)
    assert [name for name, _ in awaiting_registration(small.store)] == [model]
    second = small.register(model)
    assert (second.release_id, second.bundle_digest) == (f"{model}-r2", first.bundle_digest)
    assert second.transitions[0].reason == f"{first.release_id} comes back, readmit by demo: {WHY}"
    assert [step.to_state for step in second.transitions] == [S.CANDIDATE, S.GATED]
    assert awaiting_registration(small.store) == []
    assert small.register(model) == second
    small.settle()
    assert small.view(model).state is S.SHADOW
    assert find_release(small.store, first.release_id) == first, "what was ended stays as it ended"


def test_one_word_lets_it_come_back_once(small: World) -> None:
    model = taken_back(small)
    first = small.view(model).release_id
    readmit(small.store, first, small.person(), WHY)
    with pytest.raises(DecisionRefusedError, match=f"readmitted already: readmit by demo: {WHY}"):
        readmit(small.store, first, small.person(), "again")
    second = small.register(model)
    with pytest.raises(DecisionRefusedError, match=f"came back already, as {second.release_id}"):
        readmit(small.store, first, small.person(), "again")
    record_decision(small.store, second.release_id, Decision.REJECT, small.person(), "no, after all")
    tick(small.store, small.policy)
    assert small.register(model).release_id == second.release_id, "the word was about the first"
    assert awaiting_registration(small.store) == []
    readmit(small.store, second.release_id, small.person(), "yes, after all")
    assert small.register(model).release_id == f"{model}-r3"


def test_what_harm_took_back_does_not_come_back(small: World) -> None:
    model = in_stage(small, S.CANARY_25, Behaviour(correction=0.95))
    small.report()
    tick(small.store, small.policy)
    harmed = small.view(model)
    assert harmed.state is S.ROLLED_BACK
    with pytest.raises(DecisionRefusedError, match="no person took it back: harm ended it, and it does not come back"):
        readmit(small.store, harmed.release_id, small.person(), WHY)
    record_decision(small.store, harmed.release_id, Decision.READMIT, small.person(), "past the command line")
    assert small.register(model) == harmed
    assert awaiting_registration(small.store) == []


def test_who_asks_for_a_superseded_release_is_told_how_it_is_live_again(small: World) -> None:
    in_stage(small, S.PRODUCTION)
    first = next(view for view in release_views(small.store) if view.state is S.SUPERSEDED)
    with pytest.raises(DecisionRefusedError, match=r"is superseded .* `voice-pipeline release rollback live`"):
        readmit(small.store, first.release_id, small.person(), WHY)


def test_what_the_gates_rejected_is_not_readmitted(small: World) -> None:
    small.bootstrap(small.model(0.2))
    small.report()
    rejected = small.register(small.model(0.2))
    assert rejected.state is S.REJECTED
    with pytest.raises(DecisionRefusedError, match=f"ended it: `voice-pipeline release override {rejected.release_id}"):
        readmit(small.store, rejected.release_id, small.person(), WHY)


def test_what_fell_beside_the_live_model_may_come_back(small: World) -> None:
    model = in_stage(small, S.SHADOW)
    now = live(small.store)
    assert now is not None
    record_decision(small.store, now.release_id, Decision.ROLLBACK, small.person(), "complaints")
    fallen = small.view(model)
    assert fallen.state is S.ROLLED_BACK
    assert fallen.transitions[-1].evidence == {"beside": now.release_id}
    assert may_come_back(fallen)
    readmit(small.store, fallen.release_id, small.person(), "it was not this one")
    assert small.register(model).state is S.AWAITING_SIGN_OFF, "nothing is live to compare it with"


def test_the_word_counts_while_its_author_does_and_may(small: World) -> None:
    model = taken_back(small)
    first = small.view(model).release_id
    with pytest.raises(DecisionRefusedError, match=r"eve \(tester\) may not readmit"):
        readmit(small.store, first, small.person("eve"), WHY)
    readmit(small.store, first, small.person("ann", "release-manager"), WHY)
    small.removes("ann")
    assert awaiting_registration(small.store) == []
    assert small.register(model).release_id == first


def test_what_goes_on_is_not_readmitted_nor_what_never_was(small: World) -> None:
    model = in_stage(small, S.SHADOW)
    with pytest.raises(DecisionRefusedError, match="is shadow; readmit fits only rejected, rolled_back"):
        readmit(small.store, small.view(model).release_id, small.person(), WHY)
    with pytest.raises(UnknownReleaseError, match="m-none-r1 does not exist"):
        readmit(small.store, "m-none-r1", small.person(), WHY)
