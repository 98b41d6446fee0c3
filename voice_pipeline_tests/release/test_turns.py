"""Releases that wait to be rolled out: one at a time, the oldest first, and one that cannot start keeps nobody out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.release.controller import advance, tick
from voice_pipeline.release.people.decisions import record_decision
from voice_pipeline.release.turns import TURN, Change, Promotion, queued
from voice_pipeline.release.waiting import waits_for
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import FILE_NAME
from voice_pipeline.store.releases import release_views, rolling_out
from voice_pipeline.store.store import Store
from voice_pipeline_tests.release.world import World

START = datetime(2026, 11, 2, tzinfo=UTC)
STEP = timedelta(minutes=10)
WHOLE = TURN // STEP
comings_and_goings = st.lists(st.tuples(st.integers(0, 45), st.sampled_from("abcdef")), min_size=1, max_size=30)
"""So many steps later, this release joins, or leaves if it is there."""


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


def test_a_sign_off_after_hours_counts_from_then(small: World) -> None:
    """The older release is signed off in the middle of the second turn of the younger one, which is not cut short."""
    older, younger = small.model(0.1), small.model(0.2)
    for model in (older, younger):
        assert small.register(model).state is S.AWAITING_SIGN_OFF
    approve(small, younger)
    small.clock.advance(timedelta(hours=4))
    approve(small, older)
    hours = []
    for _ in range(9):
        (step,) = tick(small.store, small.policy).due
        hours.append(step.model_version)
        small.clock.advance(timedelta(hours=1))
    assert hours == [younger] * 2 + [older] * 3 + [younger] * 3 + [older]


@pytest.mark.parametrize("signed_off_before", [True, False])
def test_a_sign_off_counts_for_the_wait_in_which_it_was_given(small: World, signed_off_before: bool) -> None:
    """Under another policy both are judged again, and wait for a person again; then the younger is signed off first."""
    older, younger = models = [small.model(0.1), small.model(0.2)]
    for model in models:
        small.register(model)
    if signed_off_before:
        approve(small, older)
    path = small.store.settings.policy_dir / FILE_NAME
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "overrides": {}}))
    small.clock.advance(timedelta(hours=1))
    for model in models:
        assert small.register(model).state is S.AWAITING_SIGN_OFF
    approve(small, younger)
    small.clock.advance(timedelta(hours=1))
    approve(small, older)
    assert [step.model_version for step in tick(small.store, small.policy).due] == [younger]
    small.clock.advance(timedelta(hours=2))
    assert [step.model_version for step in tick(small.store, small.policy).due] == [older]


def approve(world: World, model: str) -> None:
    record_decision(world.store, world.view(model).release_id, Decision.APPROVE, world.person(), "looks good")


def by_the_hour(world: World, hours: int) -> list[str]:
    """Who is asked for in each of the next hours; all runs fail."""
    asked_for = []
    for _ in range(hours):
        asked_for.append(asked(world).model_version)
        world.clock.advance(timedelta(hours=1))
    return asked_for


def test_one_that_leaves_takes_nothing_from_the_others(waiting: tuple[World, list[str]]) -> None:
    world, (first, second, third) = waiting
    assert by_the_hour(world, 4) == [first] * 3 + [second]
    record_decision(world.store, world.view(first).release_id, Decision.REJECT, world.person(), "a newer one is here")
    assert by_the_hour(world, 6) == [second] * 2 + [third] * 3 + [second]


def test_one_that_leaves_in_its_turn_gives_the_next_a_whole_one(waiting: tuple[World, list[str]]) -> None:
    world, (first, second, third) = waiting
    assert by_the_hour(world, 1) == [first]
    record_decision(world.store, world.view(first).release_id, Decision.REJECT, world.person(), "a newer one is here")
    assert by_the_hour(world, 5) == [second] * 3 + [third] * 2


def test_one_that_comes_is_behind_all_that_wait(waiting: tuple[World, list[str]]) -> None:
    world, (first, second, third) = waiting
    assert by_the_hour(world, 4) == [first] * 3 + [second]
    fourth = world.model(0.13)
    world.register(fourth)
    assert by_the_hour(world, 9) == [second] * 2 + [third] * 3 + [first] * 3 + [fourth]


def test_one_that_may_not_start_keeps_its_place_and_lends_its_turn(waiting: tuple[World, list[str]]) -> None:
    world, (first, second, third) = waiting
    content = world.change_bundle(first)
    assert by_the_hour(world, 9) == [second] * 6 + [third] * 3
    world.restore_bundle(first, content)
    assert by_the_hour(world, 6) == [first] * 3 + [second] * 3


def told_by(plan: list[tuple[int, str]]) -> tuple[list[Change], list[set[str]], list[str | None]]:
    """The changes of a plan, and of each step until long after the last one who waits, and whose turn it is."""
    changes: list[Change] = []
    there: set[str] = set()
    present: list[set[str]] = []
    for seq, (steps, release) in enumerate(plan):
        present += [set(there)] * steps
        there ^= {release}
        changes.append(Change(seq, START + len(present) * STEP, release, release in there))
    present += [set(there)] * (len(there) + 2) * WHOLE
    turns = []
    for step in range(len(present)):
        now = START + step * STEP
        turns.append(next(iter(queued([change for change in changes if change.at <= now], now)), None))
    return changes, present, turns


@given(comings_and_goings)
def test_a_turn_ends_by_its_time_or_because_its_release_leaves(plan: list[tuple[int, str]]) -> None:
    changes, present, turns = told_by(plan)
    left = {(change.release_id, change.at) for change in changes if not change.joins}
    began = 0
    for step, (before, now) in enumerate(pairwise(turns), 1):
        assert (now is None) == (not present[step])
        assert now is None or now in present[step]
        if now == before and (now, START + step * STEP) not in left:
            continue
        if before is not None and (before, START + step * STEP) not in left:
            assert (step - began) % WHOLE == 0, f"{before} lost its turn to {now} at step {step}"
        began = step


@given(comings_and_goings)
def test_among_n_whoever_stays_has_a_whole_turn_within_n_plus_one(plan: list[tuple[int, str]]) -> None:
    changes, present, turns = told_by(plan)
    for begin in {(change.at - START) // STEP + after for change in changes for after in (0, 1)}:
        for release in present[begin]:
            most = 0
            stays = range(begin, len(present))
            for end in stays:
                if release not in present[end]:
                    break
                most = max(most, len(present[end]))
                if end + 1 - begin == (most + 1) * WHOLE:
                    assert whole_turn(turns[begin : end + 1], release), f"{release} starves from step {begin}"


def whole_turn(turns: list[str | None], release: str) -> bool:
    longest = run = 0
    for turn in turns:
        run = run + 1 if turn == release else 0
        longest = max(longest, run)
    return longest >= WHOLE
