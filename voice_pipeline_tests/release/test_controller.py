"""The controller: promotes on evidence only, undoes harm in its own tick, survives its own death and a rival."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select, text, update

from voice_pipeline.release import rollback
from voice_pipeline.release.analysis.looks import let_in_again, looks_of
from voice_pipeline.release.analysis.observations import CANDIDATE
from voice_pipeline.release.analysis.telemetry_log import Dictation
from voice_pipeline.release.controller import advance, tick
from voice_pipeline.release.errors import ReleaseRefusedError, UnknownReleaseError
from voice_pipeline.release.machine import step_of, write_steps
from voice_pipeline.release.people.decisions import record_decision
from voice_pipeline.release.refusals import stage_telemetry
from voice_pipeline.schema.monitoring import IncidentKind
from voice_pipeline.schema.release import Decision, Outcome, PersonEvent
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.errors import LedgerBrokenError, LedgerConflictError
from voice_pipeline.store.incidents import open_incidents
from voice_pipeline.store.releases import live, releases_at_head, rolling_out
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import decisions, telemetry
from voice_pipeline_tests.release.world import Behaviour, World


def in_stage(world: World, state: S, behaviour: Behaviour | None = None) -> str:
    """A second model brought to `state` by healthy traffic; the first one is live."""
    first = world.model(0.2)
    world.bootstrap(first)
    world.report()
    model = world.model(0.1)
    world.register(model)
    world.settle()
    for _ in range(8):
        if world.view(model).state is state:
            break
        world.report()
        world.settle()
    assert world.view(model).state is state
    world.behaviour[model] = behaviour or Behaviour()
    return model


def test_a_healthy_model_goes_through_every_stage_to_production(world: World) -> None:
    first, second = world.model(0.2), world.model(0.1)
    world.bootstrap(first)
    world.report()
    world.register(second)
    for _ in range(6):
        world.settle()
        world.report()
    states = [step.to_state for step in world.view(second).transitions]
    assert states == [S.CANDIDATE, S.GATED, S.SHADOW, S.CANARY_5, S.CANARY_25, S.CANARY_50, S.PRODUCTION]
    assert world.view(first).state is S.SUPERSEDED
    assert world.view(second).previous_live == world.view(first).release_id


@pytest.mark.parametrize(
    ("named", "behaviour"),
    [
        ("correction_rate", Behaviour(correction=0.9)),
        ("slow", Behaviour(latency_ms=160)),
        ("crash", Behaviour(crash=0.8)),
    ],
)
def test_harm_is_rolled_back_in_the_tick_that_sees_it(world: World, named: str, behaviour: Behaviour) -> None:
    model = in_stage(world, S.CANARY_5, behaviour)
    before = live(world.store)
    world.report(minutes=5)  # long before the stage's minimum time
    result = tick(world.store, world.policy)
    view = world.view(model)
    assert result.rolled_back == (view.release_id,)
    assert view.state is S.ROLLED_BACK
    assert named in view.transitions[-1].reason
    assert live(world.store) == before
    incident = open_incidents(world.store, IncidentKind.RELEASE_HARM)[0]
    assert (incident.model_version, incident.action) == (model, "roll_back")
    assert len(world.alerts("rolled back")) == 1


def test_a_model_that_is_only_slow_is_caught_though_some_clips_are_long(world: World) -> None:
    """Once, a few long clips set the p95 in milliseconds, and an eightfold slowdown on all others hid below it."""
    world.durations_s = (1.0,) * 9 + (40.0,)
    model = in_stage(world, S.CANARY_25, Behaviour(latency_ms=8 * Behaviour().latency_ms))
    world.report(minutes=5)
    tick(world.store, world.policy)
    view = world.view(model)
    assert view.state is S.ROLLED_BACK
    assert view.transitions[-1].reason.startswith("harm: slow ")


def test_harm_is_undone_even_when_a_stored_decision_cannot_be_read(world: World) -> None:
    model = in_stage(world, S.CANARY_5, Behaviour(correction=0.9))
    world.report(minutes=5)
    row = {"decision_id": "dec-x", "release_id": world.view(model).release_id, "decision": "ponder", "actor": "a"}
    with world.store.database.write() as connection:
        connection.execute(decisions.insert(), {**row, "reason": "r", "at": world.store.now().isoformat()})
    result = tick(world.store, world.policy)
    assert result.rolled_back == (world.view(model).release_id,)
    assert any("dec-x has no ledger line" in note for note in result.notes)


def test_harm_is_undone_while_the_rollout_is_held(world: World) -> None:
    model = in_stage(world, S.CANARY_5, Behaviour(correction=0.9))
    record_decision(world.store, world.view(model).release_id, Decision.HOLD, world.person("ann"), "looks odd")
    world.settle()
    assert world.view(model).state is S.HELD
    assert world.view(model).exposure_percent == 5
    world.report(minutes=5)
    world.settle()
    assert world.view(model).state is S.ROLLED_BACK


def test_missing_telemetry_never_passes(small: World) -> None:
    model = in_stage(small, S.CANARY_5, Behaviour(silent=True))
    for _ in range(4):
        small.report()
        small.settle()
    assert small.view(model).state in (S.CANARY_5, S.HELD, S.ROLLED_BACK)


def test_devices_that_fall_silent_are_harm(world: World) -> None:
    model = in_stage(world, S.CANARY_25, Behaviour(silent=True))
    world.report()
    world.settle()
    assert world.view(model).state is S.CANARY_25
    world.report()  # silence_minutes are over now
    world.settle()
    assert world.view(model).state is S.ROLLED_BACK
    assert "silence" in world.view(model).transitions[-1].reason


def test_stale_telemetry_does_not_promote(small: World) -> None:
    model = in_stage(small, S.CANARY_5)
    small.report(minutes=10)
    small.clock.advance(timedelta(hours=3))
    result = small.settle()
    assert small.view(model).state is S.CANARY_5
    assert "stale" in " ".join(result.notes)


def test_a_model_that_is_never_shown_non_inferior_is_held_for_a_person(small: World) -> None:
    model = in_stage(small, S.SHADOW)
    small.shadow[model] = Behaviour(correction=0.35)  # worse by the margin: neither shown good nor shown bad
    for _ in range(small.policy.promotion.max_looks + 1):
        small.report()
        small.settle()
    assert small.view(model).state is S.HELD
    assert "looks" in small.view(model).transitions[-1].reason


def test_a_stage_in_which_nothing_is_concluded_is_held_for_a_person(small: World) -> None:
    model = in_stage(small, S.CANARY_5, Behaviour(silent=True))
    small.clock.advance(timedelta(minutes=small.policy.telemetry.hold_after_minutes - 1))
    tick(small.store, small.policy)
    assert small.view(model).state is S.CANARY_5
    small.clock.advance(timedelta(minutes=2))
    tick(small.store, small.policy)
    view = small.view(model)
    assert view.state is S.HELD
    assert "nothing was concluded for 24 hours" in view.transitions[-1].reason
    tick(small.store, small.policy)
    (told,) = [body for body in small.alerts(f"{model} waits") if "is held" in body]
    assert f"release resume {view.release_id}" in told


def test_a_look_that_passed_is_not_made_again_while_its_run_is_awaited(small: World) -> None:
    """Another one would spend error, and might take the pass away."""
    model = in_stage(small, S.CANARY_25)
    looks = []
    while not looks or looks[-1].outcome is not Outcome.PASS:
        small.report()
        tick(small.store, small.policy)
        looks = looks_of(small.store, small.view(model))
    for _ in range(3):  # within the time that a pass is fresh
        small.report()
        tick(small.store, small.policy)
        assert looks_of(small.store, small.view(model)) == looks
    small.settle()
    assert small.view(model).state is S.CANARY_50


def test_a_held_release_spends_no_look(small: World) -> None:
    model = in_stage(small, S.CANARY_50)
    record_decision(small.store, small.view(model).release_id, Decision.HOLD, small.person("ann"), "looks odd")
    looks = len(looks_of(small.store, small.view(model)))
    for _ in range(3):
        small.report()
        tick(small.store, small.policy)
    assert small.view(model).state is S.HELD
    assert len(looks_of(small.store, small.view(model))) == looks


def test_what_a_stage_showed_is_not_forgotten_when_it_is_held_and_resumed(small: World) -> None:
    model = in_stage(small, S.CANARY_25)
    small.report(5)
    before = in_this_stage(small, model)
    assert before
    for decision in (Decision.HOLD, Decision.RESUME):
        record_decision(small.store, small.view(model).release_id, decision, small.person(), "looks odd")
        tick(small.store, small.policy)
    assert small.view(model).state is S.CANARY_25
    assert in_this_stage(small, model) == before
    assert let_in_again(small.store, small.view(model)) == 1


def in_this_stage(world: World, model: str) -> list[Dictation]:
    """Dictations that may promote the candidate."""
    view, now_live = world.view(model), live(world.store)
    assert now_live is not None
    return stage_telemetry(world.store, world.policy, view, now_live).comparable.arms[CANDIDATE]


def test_a_shadow_without_figures_is_none(small: World) -> None:
    """A twin that crashed before it answered once counted as one that made no error."""
    model = in_stage(small, S.SHADOW)
    small.report(5)
    assert in_this_stage(small, model)
    with small.store.database.write() as connection:
        for row in connection.execute(select(telemetry.c.event_id, telemetry.c.event)).all():
            cut = {k: v for k, v in row.event.items() if k != "shadow_corrected_words"}
            connection.execute(update(telemetry).where(telemetry.c.event_id == row.event_id).values(event=cut))
    small.store = Store.open(small.store.settings, small.clock)
    assert in_this_stage(small, model) == []


def test_a_shadow_that_is_plainly_worse_never_answers_a_user(small: World) -> None:
    model = in_stage(small, S.SHADOW)
    small.shadow[model] = Behaviour(correction=0.9)
    small.report()
    small.settle()
    assert small.view(model).state is S.ROLLED_BACK
    assert S.CANARY_5 not in [step.to_state for step in small.view(model).transitions]


@pytest.mark.parametrize("to_state", [S.CANARY_5, S.CANARY_25, S.CANARY_50, S.PRODUCTION])
def test_advancing_by_hand_without_a_passing_look_is_refused(small: World, to_state: S) -> None:
    model = in_stage(small, S.SHADOW)
    head = small.store.ledger.head()
    with pytest.raises(ReleaseRefusedError, match=r"no fresh passing look|cannot go|leads to"):
        advance(small.store, small.policy, model, to_state)
    assert small.store.ledger.head() == head


def test_a_passing_look_goes_stale(small: World) -> None:
    model = in_stage(small, S.SHADOW)
    small.report()
    assert tick(small.store, small.policy).due
    small.clock.advance(timedelta(hours=3))
    with pytest.raises(ReleaseRefusedError, match="no fresh passing look"):
        advance(small.store, small.policy, model, S.CANARY_5)


def test_a_look_under_another_policy_promotes_nothing(small: World) -> None:
    model = in_stage(small, S.SHADOW)
    small.report()
    assert tick(small.store, small.policy).due
    other = small.policy.model_copy(update={"version": 2})
    with pytest.raises(ReleaseRefusedError, match="no verdict for this bundle under this policy"):
        advance(small.store, other, model, S.CANARY_5)


def test_a_bundle_changed_during_the_rollout_is_held_and_refused(small: World) -> None:
    model = in_stage(small, S.CANARY_25)
    small.report()
    assert tick(small.store, small.policy).due
    small.change_bundle(model)
    with pytest.raises(ReleaseRefusedError, match=r"signature|changed"):
        advance(small.store, small.policy, model, S.CANARY_50)
    small.settle()
    assert small.view(model).state is S.HELD


def test_advancing_twice_is_one_transition(small: World) -> None:
    model = in_stage(small, S.SHADOW)
    small.report()
    due = tick(small.store, small.policy).due
    first = advance(small.store, small.policy, model, due[0].to_state)
    assert advance(small.store, small.policy, model, due[0].to_state) == first


def test_a_tick_without_news_asks_for_the_same_run_again(small: World) -> None:
    in_stage(small, S.SHADOW)
    small.report()
    assert tick(small.store, small.policy).due == tick(small.store, small.policy).due


def test_a_step_whose_run_died_is_asked_for_again_in_the_next_hour(small: World) -> None:
    """Dagster runs each key once, however the run ended: by another key it is run again."""
    small.bootstrap(small.model(0.2))
    small.clock.advance(timedelta(minutes=10))
    model = small.register(small.model(0.1)).model_version
    (asked,) = tick(small.store, small.policy).due
    assert asked.to_state is S.SHADOW
    small.clock.advance(timedelta(minutes=49))
    assert tick(small.store, small.policy).due == (asked,), "once an hour, not at every tick"
    small.clock.advance(timedelta(minutes=1))
    (again,) = tick(small.store, small.policy).due
    assert (again.model_version, again.to_state) == (model, asked.to_state)
    assert again.run_key != asked.run_key


def test_an_unknown_model_is_refused(small: World) -> None:
    with pytest.raises(UnknownReleaseError, match="release_candidate"):
        advance(small.store, small.policy, "m-20261102-00000000", S.SHADOW)


def test_a_second_candidate_waits_for_the_first_and_is_judged_again_against_it(world: World) -> None:
    world.bootstrap(world.model(0.2))
    world.report()
    second, third = world.model(0.15), world.model(0.1)
    world.register(second)
    world.register(third)
    for _ in range(8):
        world.settle()
        if world.view(second).state is S.PRODUCTION:
            break
        assert world.view(third).state is S.GATED
        world.report()
    story = [step.reason for step in world.view(third).transitions]
    assert any("another live model" in reason for reason in story)
    assert world.view(third).state is S.SHADOW


def test_a_live_model_rolled_back_by_a_person_returns_the_one_before(small: World) -> None:
    model = in_stage(small, S.CANARY_50)
    small.report()
    small.settle()
    before = small.view(model)
    assert before.state is S.PRODUCTION
    record_decision(small.store, before.release_id, Decision.ROLLBACK, small.person("ann"), "complaints")
    back = live(small.store)
    assert back is not None
    assert back.release_id == before.previous_live
    assert small.assignment(1).model_version == back.model_version


def test_a_controller_that_dies_after_the_rollback_tells_people_when_it_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = in_stage(world, S.CANARY_5, Behaviour(correction=0.9))
    world.report(minutes=5)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rollback, "open_incident", die)
    with pytest.raises(KeyboardInterrupt):
        tick(world.store, world.policy)
    assert world.view(model).state is S.ROLLED_BACK
    assert not open_incidents(world.store)
    monkeypatch.undo()
    tick(world.store, world.policy)
    tick(world.store, world.policy)
    assert len(open_incidents(world.store, IncidentKind.RELEASE_HARM)) == 1


def test_a_line_about_people_written_past_the_commands_is_told_of_by_the_next_tick(small: World) -> None:
    small.person()
    tick(small.store, small.policy)
    assert small.alerts("a line about people") == []
    assert len(small.alerts("who may decide about releases changed")) == 2
    (line, _) = small.store.ledger.lines(kind=PersonEvent.ENROLLED)
    small.store.ledger.append(PersonEvent.ENROLLED, "mallory", line.payload, "demo")
    small.store.ledger.append(PersonEvent.REMOVED, "demo", [], "mallory")  # type: ignore[arg-type]
    assert tick(small.store, small.policy).due == ()
    first, second = small.alerts("a line about people counts for nothing")
    assert "(person_enrolled mallory) counts for nothing: not signed by demo" in first
    assert "(person_removed demo) counts for nothing" in second
    tick(small.store, small.policy)
    assert len(small.alerts("a line about people")) == 2


def test_of_two_controllers_that_decide_at_once_one_is_refused(small: World) -> None:
    model = in_stage(small, S.CANARY_5)
    rival = Store.open(small.store.settings, small.clock)
    head, views = releases_at_head(small.store)
    view = small.view(model)
    write_steps(rival, head, views, [step_of(view, S.HELD, "first")], small.policy.digest, "rival")
    with pytest.raises(LedgerConflictError):
        write_steps(small.store, head, views, [step_of(view, S.ROLLED_BACK, "second")], small.policy.digest, "me")
    assert rolling_out(small.store) == rolling_out(rival)
    assert small.view(model).state is S.HELD


def test_a_ledger_edited_by_hand_stops_the_engine(small: World) -> None:
    model = in_stage(small, S.SHADOW)
    with small.store.database.write() as connection:
        connection.execute(text("UPDATE ledger SET payload = replace(payload, 'shadow', 'canary_50')"))
    with pytest.raises(LedgerBrokenError):
        tick(small.store, small.policy)
    with pytest.raises(LedgerBrokenError):
        advance(small.store, small.policy, model, S.CANARY_5)
