"""What looks spend: the same as ever under one policy; after a change only what the new budget leaves beyond it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.release.analysis.looks import let_in_again, looks_of
from voice_pipeline.release.analysis.promotion import (
    HARM,
    PROMOTION,
    SPENT,
    TESTS,
    all_spent,
    budgets,
    look_at,
    may_look,
    spent_figures,
)
from voice_pipeline.release.analysis.stage import analyse
from voice_pipeline.release.carrying_out import readmit
from voice_pipeline.release.controller import tick
from voice_pipeline.release.people.decisions import record_decision
from voice_pipeline.schema.release import Decision, Outcome
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.schema.release_policy import FILE_NAME, ReleasePolicy
from voice_pipeline.stats.group_sequential import nominal_levels, pocock_spending
from voice_pipeline_tests.release.analysis.test_stage import CANDIDATE, CONTROL, POLICY, stage, talk
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import Behaviour, World

START = datetime(2026, 11, 2, 9, tzinfo=UTC)
STAGE = POLICY.stage(S.CANARY_50)
DATA = stage(talk(CANDIDATE, 120, 12, 125), talk(CONTROL, 120, 12, 125), 125, 0.5)
FOUND = look_at(POLICY, STAGE, DATA.comparable, [])
"""The first look at it: its information is that of every later one here."""


@dataclass(frozen=True)
class Taken:
    """A look that was made."""

    at: datetime
    figures: Mapping[str, Any]


def under(alpha: float, most: int = 4, harm: float = 0.05) -> ReleasePolicy:
    changes: dict[str, Any] = {
        "promotion": POLICY.promotion.model_copy(update={"alpha": alpha, "max_looks": most}),
        "guardrails": POLICY.guardrails.model_copy(update={"alpha": harm}),
    }
    return POLICY.model_copy(update=changes)


def taken(figures: Mapping[str, Any], share: float = 0.5) -> Taken:
    """A look that knew this share of what is known now, as the ledger gives it back."""
    known = {name: {"information": test.information * share} for name, test in FOUND.items()}
    return Taken(START, json.loads(json.dumps({TESTS: known, **figures})))


def as_before(alpha: float, most: int, name: str, looks: list[Taken]) -> float:
    """The level of one more look as it was reckoned before looks told what they spent."""
    known = [look.figures[TESTS][name]["information"] for look in looks]
    spent = [pocock_spending(alpha, number / most) for number in range(1, len(known) + 2)]
    return nominal_levels(spent, [*known, FOUND[name].information])[-1]


@settings(deadline=None, max_examples=25)
@given(st.floats(1e-4, 0.2), st.integers(1, 6), st.integers(0, 3), st.data())
def test_under_one_policy_every_level_is_what_it_always_was(
    alpha: float, most: int, resumed: int, data: st.DataObject
) -> None:
    """To the last bit, and whether or not the looks before told: docs/error-rates.md stands as it is."""
    policy = under(alpha, most)
    looks: list[Taken] = []
    for number in range(data.draw(st.integers(1, most))):
        tests = look_at(policy, STAGE, DATA.comparable, looks, resumed)
        untold = [Taken(look.at, {TESTS: look.figures[TESTS]}) for look in looks]
        assert look_at(policy, STAGE, DATA.comparable, untold, resumed) == tests
        for name in ("correction_rate", "crash"):
            assert tests[name].level == as_before(alpha * 2.0**-resumed, most, name, looks)
            assert tests[name].harm_level == as_before(budgets(policy, resumed)[HARM], most, name, looks)
        figures = spent_figures(policy, looks, resumed)
        looks.append(taken({SPENT: figures} if data.draw(st.booleans()) else {}, (number + 1) / (most + 1)))
        assert all_spent(policy, looks, resumed) is (number + 1 == most)


def test_looks_at_silence_share_the_error_as_tests_do_that_have_nothing_to_do_with_one_another() -> None:
    """Each knows its own hour. As looks at growing data, 1.8 times the error was measured where use is light."""
    looks: list[Taken] = []
    levels = []
    for number in range(POLICY.promotion.max_looks):
        levels.append(look_at(POLICY, STAGE, DATA.comparable, looks)["silence"].level)
        looks.append(taken({SPENT: spent_figures(POLICY, looks)}, (number + 90) / 100))
    alpha = POLICY.promotion.alpha
    assert 1 - np.prod([1 - level for level in levels]) == pytest.approx(alpha, rel=0.01)
    assert levels[1] < look_at(POLICY, STAGE, DATA.comparable, looks[:1])["correction_rate"].level


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(1e-4, 0.2), st.integers(1, 8), st.floats(1e-3, 0.2)), min_size=2, max_size=5))
def test_after_a_change_looks_spend_what_is_left_and_end_where_nothing_is(
    plans: list[tuple[float, int, float]],
) -> None:
    looks: list[Taken] = []
    before = {PROMOTION: 0.0, HARM: 0.0}
    for alpha, most, harm in plans:
        policy = under(alpha, most, harm)
        left = budgets(policy)[PROMOTION] - before[PROMOTION]
        assert all_spent(policy, looks) is (bool(looks) and (len(looks) >= most or left <= 0))
        told = spent_figures(policy, looks)
        for name, budget in budgets(policy).items():
            assert before[name] <= told[name] <= max(before[name], budget * (1 + 1e-12))
            before[name] = told[name]
        looks.append(taken({SPENT: told}))


def test_a_stricter_policy_does_not_take_earlier_looks_for_cheaper_than_they_were() -> None:
    """Once, looks made at 0.1 counted as made at 0.025, so that a stage erred far more often than either allows."""
    loose, strict = under(0.05), under(0.03)
    told = taken({SPENT: spent_figures(loose, [])})
    level = look_at(strict, STAGE, DATA.comparable, [told])["correction_rate"].level
    recounted = look_at(strict, STAGE, DATA.comparable, [taken({})])["correction_rate"].level
    assert look_at(loose, STAGE, DATA.comparable, [])["correction_rate"].level == pytest.approx(
        pocock_spending(0.05, 1 / 4)
    )
    assert pocock_spending(0.05, 1 / 4) < 0.03
    assert 0 <= level < recounted


def test_where_all_is_spent_no_look_is_made_and_none_could_pass() -> None:
    told = taken({SPENT: spent_figures(under(0.2), [])})
    later = START + timedelta(hours=9)
    assert may_look(under(0.2), STAGE, [told], later)
    assert not may_look(under(0.025), STAGE, [told], later)
    assert look_at(under(0.025), STAGE, DATA.comparable, [told])["correction_rate"].level == 0.0


def test_what_a_resumed_stage_may_spend_is_half() -> None:
    told = taken({SPENT: {PROMOTION: 0.02, HARM: 1e-5}})
    assert not all_spent(under(0.025), [told])
    assert all_spent(under(0.025), [told], resumed=1)
    later = START + timedelta(hours=9)
    assert may_look(under(0.025), STAGE, [told], later)
    assert not may_look(under(0.025), STAGE, [told], later, resumed=1)


def test_an_analysis_tells_what_its_look_spent() -> None:
    found = analyse(POLICY, S.CANARY_50, DATA, [])
    assert found.look
    assert found.figures[SPENT] == {
        PROMOTION: pocock_spending(0.025, 0.25),
        HARM: pocock_spending(budgets(POLICY)[HARM], 0.25),
    }
    waiting = analyse(POLICY, S.CANARY_50, DATA, [Taken(DATA.comparable.now, found.figures)])
    assert not waiting.look
    assert SPENT not in waiting.figures


def rewrite(world: World, alpha: float) -> None:
    path: Path = world.store.settings.policy_dir / FILE_NAME
    content = yaml.safe_load(path.read_text())
    content["promotion"]["alpha"] = alpha
    path.write_text(yaml.safe_dump(content))


def test_a_policy_made_stricter_within_a_stage_holds_a_rollout_that_spent_more(small: World) -> None:
    """The real tick: one look under a loose policy; the strict one gives no second."""
    rewrite(small, 0.2)
    model = in_stage(small, S.SHADOW)
    small.shadow[model] = Behaviour(correction=0.35)  # neither shown good nor shown bad
    small.report()
    small.settle()
    (look,) = looks_of(small.store, small.view(model))
    assert (look.outcome, look.figures[SPENT][PROMOTION]) == (Outcome.INCONCLUSIVE, pocock_spending(0.2, 0.25))
    rewrite(small, 0.025)
    small.report()
    tick(small.store, small.policy)
    view = small.view(model)
    assert view.state is S.HELD
    assert (
        "not shown non-inferior in 1 looks, with which all error of this policy is spent" in view.transitions[-1].reason
    )


def test_a_resumed_stage_under_a_stricter_policy_ends_by_the_half_that_it_has(small: World) -> None:
    rewrite(small, 0.2)
    model = in_stage(small, S.SHADOW)
    small.shadow[model] = Behaviour(correction=0.35)
    for decision in (Decision.HOLD, Decision.RESUME):
        record_decision(small.store, small.view(model).release_id, decision, small.person(), "looks odd")
        tick(small.store, small.policy)
    small.report()
    small.settle()
    (look,) = looks_of(small.store, small.view(model))
    assert 0.025 < look.figures[SPENT][PROMOTION] == pocock_spending(0.1, 0.25) < 0.05
    rewrite(small, 0.05)
    tick(small.store, small.policy)
    assert small.view(model).state is S.HELD


def test_a_policy_made_looser_within_a_stage_gives_the_next_look_what_it_adds(small: World) -> None:
    model = in_stage(small, S.SHADOW)
    small.shadow[model] = Behaviour(correction=0.35)
    small.report()
    small.settle()
    rewrite(small, 0.05)
    small.report()
    small.settle()  # judged again under the new policy
    small.report()
    small.settle()
    first, second, *_ = looks_of(small.store, small.view(model))
    assert first.figures[SPENT][PROMOTION] == pocock_spending(0.025, 0.25)
    assert second.figures[SPENT][PROMOTION] == pocock_spending(0.05, 0.5)


def test_a_bundle_that_came_back_has_half_the_error_at_each_stage_that_it_was_in(small: World) -> None:
    """Else whoever may readmit could have looks made at full error until one passes."""
    model = in_stage(small, S.CANARY_5)
    for number in (1, 2):
        first = small.view(model).release_id
        record_decision(small.store, first, Decision.ROLLBACK, small.person(), "complaints")
        tick(small.store, small.policy)
        readmit(small.store, first, small.person(), "a mistake")
        small.register(model)
        small.settle()
        assert small.view(model).state is S.SHADOW
        assert let_in_again(small.store, small.view(model)) == number
        small.shadow[model] = Behaviour(correction=0.35)
        small.report()
        small.settle()
        (look,) = looks_of(small.store, small.view(model))
        assert look.figures[SPENT][PROMOTION] == pocock_spending(0.025 / 2**number, 0.25)


def test_another_bundle_has_all_its_error(small: World) -> None:
    model = in_stage(small, S.SHADOW)
    record_decision(small.store, small.view(model).release_id, Decision.ROLLBACK, small.person(), "complaints")
    tick(small.store, small.policy)
    other = small.model(0.1)
    small.register(other)
    small.settle()
    assert small.view(other).state is S.SHADOW
    assert let_in_again(small.store, small.view(other)) == 0
