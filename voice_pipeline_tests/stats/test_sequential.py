"""An anytime-valid test of harm: it errs no more often than it may, whatever the order, and sees real harm soon."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.stats.sequential import BETS, HarmTest, harm_test

ALPHA = 0.1
THREE_STANDARD_ERRORS = 3 * math.sqrt(ALPHA * (1 - ALPHA) / 400)
unit = st.floats(0, 1, allow_nan=False)
devices = st.lists(st.tuples(st.one_of(unit, st.integers(0, 4).map(lambda bad: bad / 4)), st.booleans()), max_size=120)
shares = st.sampled_from([0.05, 0.2, 0.5])


def asked(known: list[tuple[float, bool]], share: float, margin: float = 0.5, alpha: float = ALPHA) -> HarmTest:
    return harm_test([x for x, _ in known], [arm for _, arm in known], share, margin, alpha)


def rare(rng: np.random.Generator, n: int) -> np.ndarray:
    return (rng.random(n) < 0.1).astype(float)


def usual(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.beta(2, 4, n)


def ever_worse(rng: np.random.Generator, n: int) -> np.ndarray:
    """Who comes late fares far worse: light users, where devices speak once they have dictated enough."""
    return rng.binomial(4, np.linspace(0.0, 0.6, n)) / 4


def ever_better(rng: np.random.Generator, n: int) -> np.ndarray:
    return ever_worse(rng, n)[::-1]


@pytest.mark.parametrize("share", [0.05, 0.5])
@pytest.mark.parametrize("fleet", [rare, usual, ever_worse, ever_better])
def test_an_equal_model_is_ever_called_harmful_no_more_often_than_alpha(
    fleet: Callable[[np.random.Generator, int], np.ndarray], share: float
) -> None:
    """At a margin of 0, where it is hardest; the bound only rises, so one call at the end counts every look."""
    rng = np.random.default_rng(7)
    false = sum(harm_test(fleet(rng, 400), rng.random(400) < share, share, 0.0, ALPHA).harmful for _ in range(400))
    assert false / 400 <= ALPHA + THREE_STANDARD_ERRORS


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_harm_of_just_the_margin_is_called_more_no_more_often_than_alpha(share: float) -> None:
    rng, false = np.random.default_rng(3), 0
    for _ in range(400):
        arm = rng.random(400) < share
        false += harm_test(rng.random(400) < 0.1 + 0.1 * arm, arm, share, 0.1, ALPHA).harmful
    assert false / 400 <= ALPHA + THREE_STANDARD_ERRORS


@given(devices, shares)
@settings(max_examples=80, deadline=None)
def test_the_bound_only_ever_rises_to_the_margin(known: list[tuple[float, bool]], share: float) -> None:
    tests = [asked(known[:n], share) for n in range(len(known) + 1)]
    assert all(later.lower >= earlier.lower - 1e-6 for earlier, later in pairwise(tests))
    assert all(later.harmful >= earlier.harmful for earlier, later in pairwise(tests))
    assert all(0 <= test.lower <= test.margin for test in tests)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_bound_closes_in_on_the_harm(share: float) -> None:
    rng = np.random.default_rng(0)
    arm = rng.random(20_000) < share
    figures = 0.8 * rng.beta(2, 4, 20_000) + 0.2 * arm
    assert 0.15 < asked(list(zip(figures, arm, strict=True)), share).lower < 0.2


def test_gross_harm_is_certain_on_ten_devices() -> None:
    rng = np.random.default_rng(2)

    def on(candidates: int) -> bool:
        figures = np.clip(rng.normal(0.3, 0.15, 200), 0, 1)
        arm = np.arange(200) % 20 == 0
        arm[np.flatnonzero(arm)[candidates:]] = False
        figures[arm] = 0.95
        return harm_test(figures, arm, 0.05, 0.05, 0.05 / 18).harmful

    assert on(10)
    assert not on(2)


def test_what_the_live_model_does_worse_is_no_harm() -> None:
    arm = np.arange(400) % 2 == 0
    found = asked(list(zip(np.where(arm, 0.0, 1.0), arm, strict=True)), 0.5)
    assert (found.lower, found.harmful) == (0.0, False)


def test_devices_that_only_the_candidate_can_have_are_held_against_all_others() -> None:
    """Two thirds of the candidate's arm, with nobody like them on the control, crash each time: no usual share."""
    rng = np.random.default_rng(5)
    arm, only = rng.random(280) < 0.25, rng.random(280) < 0.66
    seen = arm | ~only
    arm, only = arm[seen], only[seen]
    found = harm_test((arm & only).astype(float), arm, 0.25, 0.3, 0.05 / 56, ~only)
    assert found.harmful
    assert not harm_test(np.full(arm.shape, 0.2), arm, 0.25, 0.02, 0.05 / 56, ~only).harmful


@pytest.mark.parametrize("candidates", [4, 6, 15])
def test_few_devices_that_are_all_slow_are_harm_however_few_the_draw_gave(candidates: int) -> None:
    """At 5 % of 300 devices, and the error that one measure has in one stage."""
    arm = np.zeros(300, dtype=bool)
    arm[np.linspace(20, 290, candidates).astype(int)] = True
    found = harm_test(np.where(arm, 1.0, 0.02), arm, 0.05, 0.1, 0.05 / 2 / 28)
    assert found.harmful
    assert not harm_test(np.where(arm, 0.12, 0.02), arm, 0.05, 0.1, 0.05 / 2 / 28).harmful


def test_nothing_observed_is_no_harm() -> None:
    assert not harm_test([], [], 0.5, 0.0, 0.05).harmful
    assert not harm_test([1.0, 0.0] * 50, [False] * 100, 0.5, 0.0, 0.05).harmful


def test_the_means_are_those_of_the_arms() -> None:
    found = harm_test([0.2, 0.4, 1.0], [True, False, True], 0.5, 0.05, 0.05)
    assert (found.candidate_mean, found.control_mean) == pytest.approx((0.6, 0.4))
    assert (found.candidate_n, found.control_n) == (2, 1)


@pytest.mark.parametrize(
    ("figures", "arms", "share", "margin", "alpha"),
    [
        ([1.1], [True], 0.5, 0.0, 0.1),
        ([-0.1], [True], 0.5, 0.0, 0.1),
        ([float("nan")], [True], 0.5, 0.0, 0.1),
        ([0.5], [], 0.5, 0.0, 0.1),
        ([0.5], [True], 1.0, 0.0, 0.1),
        ([0.5], [True], 0.5, 1.0, 0.1),
        ([0.5], [True], 0.5, -0.1, 0.1),
        ([0.5], [True], 0.5, 0.0, 0.0),
    ],
)
def test_what_is_no_sample_is_refused(
    figures: list[float], arms: list[bool], share: float, margin: float, alpha: float
) -> None:
    with pytest.raises(ValueError, match=r"must lie in|need as many"):
        harm_test(figures, arms, share, margin, alpha)


@given(devices, shares, st.sampled_from([0.0, 0.02, 0.2, 0.5]), st.sampled_from([0.3, 0.05, 0.05 / 112]))
@settings(max_examples=200, deadline=None)
def test_what_is_certain_is_what_a_gambler_finds_who_keeps_books(
    known: list[tuple[float, bool]], share: float, margin: float, alpha: float
) -> None:
    """By halving the interval, with the capital reckoned device by device, as the paper writes it."""
    found = asked(known, share, margin, alpha)
    lower, harmful = by_bisection(known, share, margin, alpha)
    assert found.lower == pytest.approx(lower, abs=2**-22)
    assert found.harmful == harmful


def by_bisection(known: list[tuple[float, bool]], share: float, margin: float, alpha: float) -> tuple[float, bool]:
    def holds(harm: float) -> bool:
        capital, most = [1.0] * len(BETS), 0.0
        for n, (x, on_candidate) in enumerate(known):
            centre = sum(figure for figure, _ in known[:n]) / max(n, 1)
            z = (x - harm - centre) / share if on_candidate else -(x - centre) / (1 - share)
            least = max((margin + centre) / share, (1 - centre) / (1 - share))
            capital = [k * (1 + bet * z / least) for k, bet in zip(capital, BETS, strict=True)]
            most = max(most, sum(capital) / len(BETS))
        return most >= 1 / alpha

    if not any(on_candidate for _, on_candidate in known) or not holds(0.0):
        return 0.0, False
    if holds(margin):
        return margin, True
    low, high = 0.0, margin
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low, False
