"""Looking again costs no error: published bounds are met, and simulated tests err as often as they may."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from voice_pipeline.stats.group_sequential import nominal_levels, pocock_spending, spent_by_looks

LOOKS = [1, 2, 3, 4, 5]


def bounds(spent: list[float], information: list[float]) -> list[float]:
    return [float(norm.isf(level)) for level in nominal_levels(spent, information)]


def test_equal_looks_have_the_published_pocock_type_bounds() -> None:
    """Jennison & Turnbull (2000), and any software for group-sequential designs: five looks at one-sided 0.025."""
    spent = [pocock_spending(0.025, k / 5) for k in LOOKS]
    assert bounds(spent, LOOKS) == pytest.approx([2.438, 2.427, 2.410, 2.397, 2.386], abs=1e-3)


def test_equal_looks_have_the_published_obrien_fleming_type_bounds() -> None:
    spent = [2 * float(norm.sf(norm.isf(0.0125) / (k / 5) ** 0.5)) for k in LOOKS]
    assert bounds(spent, LOOKS) == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=1e-3)


def test_one_look_has_the_whole_level() -> None:
    assert nominal_levels([0.025], [17.0]) == pytest.approx((0.025,), abs=1e-9)
    assert pocock_spending(0.025, 1.0) == pytest.approx(0.025)
    assert pocock_spending(0.025, 0.0) == 0.0


@pytest.mark.parametrize("information", [[1, 2, 3, 4], [1, 1.02, 5, 5.5], [10, 11, 12, 13], [1, 30, 31, 100]])
def test_the_test_rejects_a_true_null_as_often_as_it_may(information: list[float]) -> None:
    alpha, trials = 0.05, 200_000
    spent = [pocock_spending(alpha, k / 4) for k in (1, 2, 3, 4)]
    levels = nominal_levels(spent, information)
    rng = np.random.default_rng(7)
    steps = np.diff([0.0, *information]) ** 0.5
    statistics = np.cumsum(rng.standard_normal((trials, 4)) * steps, axis=1) / np.sqrt(information)
    rejected = np.maximum.accumulate(statistics > norm.isf(levels), axis=1).mean(axis=0)
    assert rejected == pytest.approx(spent, abs=4 * (alpha / trials) ** 0.5)


def test_information_that_does_not_grow_costs_power_and_no_error() -> None:
    spent = [pocock_spending(0.05, k / 4) for k in (1, 2, 3, 4)]
    levels = nominal_levels(spent, [5.0, 5.0, 4.0, 5.0])
    rng = np.random.default_rng(8)
    statistic = rng.standard_normal(200_000)
    rejected = np.any(statistic[:, None] > norm.isf(levels), axis=1).mean()
    assert rejected <= 0.05


@given(
    st.lists(st.floats(0.01, 1e4), min_size=1, max_size=6),
    st.floats(0.001, 0.2),
)
@settings(max_examples=60, deadline=None)
def test_any_information_gives_levels_below_what_is_spent(information: list[float], alpha: float) -> None:
    spent = [pocock_spending(alpha, k / len(information)) for k in range(1, len(information) + 1)]
    levels = nominal_levels(spent, information)
    assert all(0 <= level <= total + 1e-9 for level, total in zip(levels, spent, strict=True))
    assert levels[0] == pytest.approx(spent[0], rel=1e-4)


@pytest.mark.parametrize(
    ("spent", "information"),
    [([0.1], [1, 2]), ([0.2, 0.1], [1, 2]), ([0.0], [1]), ([0.1], [0]), ([0.1], [float("inf")]), ([1.0], [1])],
)
def test_what_is_no_design_is_refused(spent: list[float], information: list[float]) -> None:
    with pytest.raises(ValueError, match=r"need as many|lie in"):
        nominal_levels(spent, information)


PLANS = st.lists(st.tuples(st.floats(1e-6, 0.2), st.integers(1, 20)), min_size=1, max_size=8)
"""Looks, each made under a budget and a greatest number of looks of its own."""


def made_under(plans: list[tuple[float, int]]) -> list[float]:
    """What was spent by each look, when each plan replaced the one before and each look wrote down what it spent."""
    told: list[float | None] = []
    for alpha, most in plans:
        told.append(spent_by_looks(alpha, most, told)[-1])
    return [one for one in told if one is not None]


@given(st.floats(1e-6, 0.2), st.integers(1, 20), st.data())
def test_under_one_plan_every_look_spends_what_it_says_whether_it_was_written_down_or_not(
    alpha: float, most: int, data: st.DataObject
) -> None:
    planned = [pocock_spending(alpha, k / most) for k in range(1, most + 1)]
    assert made_under([(alpha, most)] * most) == planned  # to the last bit
    known = [data.draw(st.sampled_from([one, None])) for one in planned[:-1]]
    assert spent_by_looks(alpha, most, known) == tuple(planned)


@given(PLANS)
def test_a_change_of_plan_takes_nothing_back_and_gives_no_more_than_is_left(plans: list[tuple[float, int]]) -> None:
    spent = made_under(plans)
    for before, now, (alpha, most), number in zip([0.0, *spent], spent, plans, range(1, 99), strict=False):
        assert before <= now <= max(before, alpha * (1 + 1e-12))
        plan = [pocock_spending(alpha, k / most) for k in range(min(number, most), most + 1)]
        assert now == min([total for total in plan if total > before], default=before)
    assert nominal_levels(spent, list(range(1, len(spent) + 1)))[-1] < 1


@pytest.mark.parametrize(
    "plans",
    [[(0.2, 4), (0.2, 4), (0.15, 4), (0.15, 4)], [(0.025, 4), (0.1, 4), (0.1, 4)], [(0.1, 2), (0.1, 8), (0.1, 3)]],
)
def test_looks_under_changing_plans_err_as_often_as_they_wrote_down(plans: list[tuple[float, int]]) -> None:
    """Each look has the level that was reckoned when it was made, from what was written down until then."""
    trials = 200_000
    spent, information = made_under(plans), [1.0, 2.0, 3.0, 4.0][: len(plans)]
    levels = [nominal_levels(spent[:n], information[:n])[-1] for n in range(1, len(plans) + 1)]
    rng = np.random.default_rng(9)
    statistics = np.cumsum(rng.standard_normal((trials, len(plans))), axis=1) / np.sqrt(information)
    rejected = np.maximum.accumulate(statistics > norm.isf(levels), axis=1).mean(axis=0)
    assert rejected == pytest.approx(spent, abs=4 * (0.2 / trials) ** 0.5)


def test_a_look_is_never_made_for_nothing_while_the_plan_allows_more_later() -> None:
    """Once, a look after a stricter policy had level 0, and used up one of the few that there are."""
    spent = spent_by_looks(0.03, 4, [0.02])
    assert pocock_spending(0.03, 2 / 4) < 0.02 < spent[1] == pocock_spending(0.03, 3 / 4)
    assert nominal_levels(spent, [1.0, 2.0])[1] > 0


def test_where_more_was_spent_than_the_new_budget_allows_nothing_is_left() -> None:
    spent = spent_by_looks(0.025, 4, [pocock_spending(0.2, 1 / 4)])
    assert spent[1] == spent[0] > 0.025
    assert nominal_levels(spent, [1.0, 2.0])[1] == 0.0
