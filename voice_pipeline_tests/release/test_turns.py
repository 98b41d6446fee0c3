"""Releases that wait to be rolled out: one at a time, the oldest first, and one that cannot start keeps nobody out."""

from __future__ import annotations

from datetime import timedelta

import pytest

from voice_pipeline.release.controller import advance, tick
from voice_pipeline.release.people.decisions import record_decision
from voice_pipeline.release.turns import TURN, Promotion
from voice_pipeline.release.waiting import waits_for
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.releases import release_views, rolling_out
from voice_pipeline.store.store import Store
from voice_pipeline_tests.release.world import World


@pytest.fixture
def waiting(small: World) -> tuple[World, list[str]]:
    """A live model, and three that passed their gates within the same minutes."""
    small.bootstrap(small.model(0.2))
    models = [small.model(wer) for wer in (0.1, 0.11, 0.12)]
    for model in models:
        assert small.register(model).state is S.GATED
        small.clock.advance(timedelta(minutes=5))
    return small, models


def asked(world: World) -> Promotion:
    """The only step that a tick asks for."""
    (step,) = tick(world.store, world.policy).due
    assert step.to_state is S.SHADOW
    return step


def wait_for(world: World, model: str) -> Promotion:
    """Tick through the hours until `model` is asked for; every run that was asked for before has failed."""
    for _ in range(200):
        step = asked(world)
        if step.model_version == model:
            return step
        world.clock.advance(timedelta(minutes=10))
    raise AssertionError(f"{model} was not asked for in 33 hours")


def test_people_are_told_whose_turn_it_is(waiting: tuple[World, list[str]]) -> None:
    world, models = waiting
    views = release_views(world.store)
    told = [waits_for(world.store, world.policy, views, world.view(model)) for model in models]
    first = f"its turn, which is that of {world.view(models[0]).release_id}"
    assert told == ["the run of shadow_release", first, first]


def test_the_oldest_comes_first(waiting: tuple[World, list[str]]) -> None:
    world, models = waiting
    assert asked(world).model_version == models[0]
    world.settle()
    assert [world.view(model).state for model in models] == [S.SHADOW, S.GATED, S.GATED]


def test_one_whose_run_always_fails_keeps_the_next_waiting_for_hours_and_not_for_ever(
    waiting: tuple[World, list[str]],
) -> None:
    world, (broken, second, third) = waiting
    began = world.clock.now()
    step = wait_for(world, second)
    assert timedelta(hours=2) < world.clock.now() - began <= TURN
    advance(world.store, world.policy, second, step.to_state)
    assert [world.view(model).state for model in (broken, second, third)] == [S.GATED, S.SHADOW, S.GATED]
    assert tick(world.store, world.policy).due == ()  # one at a time


def test_two_that_fail_keep_the_third_waiting_no_longer_than_their_turns(waiting: tuple[World, list[str]]) -> None:
    world, (_, _, third) = waiting
    began = world.clock.now()
    wait_for(world, third)
    assert world.clock.now() - began <= 2 * TURN


def test_each_has_its_turn_again_and_each_hour_of_it_is_another_run(waiting: tuple[World, list[str]]) -> None:
    """What was broken may be mended: in the next round it is asked for once more, under a key that never ran."""
    world, models = waiting
    rounds: dict[str, set[str]] = {model: set() for model in models}
    order: list[str] = []
    for _ in range(2 * 3 * 18):
        step = asked(world)
        rounds[step.model_version].add(step.run_key)
        order += [step.model_version] if order[-1:] != [step.model_version] else []
        world.clock.advance(timedelta(minutes=10))
    assert order[:6] == [*models, *models]
    assert all(6 <= len(keys) <= 8 for keys in rounds.values())


def test_who_waits_is_told_for_whom(waiting: tuple[World, list[str]]) -> None:
    world, models = waiting
    first, *others = (world.view(model).release_id for model in models)
    notes = tick(world.store, world.policy).notes
    assert [note for note in notes if "turn" in note] == [f"{r} waits: it is the turn of {first}" for r in others]


def test_every_controller_asks_for_the_same_one(waiting: tuple[World, list[str]]) -> None:
    """Nothing is remembered beside the ledger: another process, or a home that was restored, decides alike."""
    world, _ = waiting
    for _ in range(8):
        rival = Store.open(world.store.settings, world.clock)
        assert tick(rival, world.policy).due == tick(world.store, world.policy).due
        world.clock.advance(timedelta(hours=1, minutes=10))


def test_when_the_way_is_free_again_the_oldest_is_first_again(waiting: tuple[World, list[str]]) -> None:
    world, (first, second, _) = waiting
    advance(world.store, world.policy, second, wait_for(world, second).to_state)
    world.clock.advance(timedelta(hours=1))
    view = rolling_out(world.store)
    assert view is not None
    record_decision(world.store, view.release_id, Decision.ROLLBACK, world.person(), "try the others first")
    assert rolling_out(world.store) is None
    assert asked(world).model_version == first


def test_one_that_may_not_start_has_no_turn(waiting: tuple[World, list[str]]) -> None:
    world, (first, second, _) = waiting
    world.change_bundle(first)
    assert asked(world).model_version == second


def test_a_clock_that_was_set_back_asks_for_the_oldest(waiting: tuple[World, list[str]]) -> None:
    world, models = waiting
    world.clock._now -= timedelta(hours=30)
    assert asked(world).model_version == models[0]
