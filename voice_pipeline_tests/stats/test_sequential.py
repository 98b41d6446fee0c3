"""An anytime-valid test of harm: it errs no more often than it may, whatever the order, and sees real harm soon."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.stats.sequential import BETS, harm_test

ALPHA = 0.1
THREE_STANDARD_ERRORS = 3 * math.sqrt(ALPHA * (1 - ALPHA) / 400)
unit = st.floats(0, 1, allow_nan=False)
devices = st.lists(st.tuples(st.one_of(unit, st.integers(0, 4).map(lambda bad: bad / 4)), st.booleans()), max_size=120)
shares = st.sampled_from([0.05, 0.2, 0.5])


def certain(known: list[tuple[float, bool]], share: float, alpha: float = ALPHA) -> float:
    return harm_test([x for x, _ in known], [arm for _, arm in known], share, 0.0, alpha).lower


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
def test_the_bound_only_ever_rises_and_is_a_share(known: list[tuple[float, bool]], share: float) -> None:
    bounds = [certain(known[:n], share) for n in range(len(known) + 1)]
    assert all(later >= earlier - 1e-6 for earlier, later in pairwise(bounds))
    assert all(0 <= bound < 1 for bound in bounds)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_bound_closes_in_on_the_harm(share: float) -> None:
    rng = np.random.default_rng(0)
    arm = rng.random(20_000) < share
    figures = 0.8 * rng.beta(2, 4, 20_000) + 0.2 * arm
    assert 0.15 < certain(list(zip(figures, arm, strict=True)), share) < 0.2


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
    assert certain(list(zip(np.where(arm, 0.0, 1.0), arm, strict=True)), 0.5) == 0.0


def test_nothing_observed_is_no_harm() -> None:
    assert not harm_test([], [], 0.5, 0.0, 0.05).harmful
    assert not harm_test([1.0, 0.0] * 50, [False] * 100, 0.5, 0.0, 0.05).harmful


def test_the_means_are_those_of_the_arms() -> None:
    found = harm_test([0.2, 0.4, 1.0], [True, False, True], 0.5, 0.05, 0.05)
    assert (found.candidate_mean, found.control_mean) == pytest.approx((0.6, 0.4))
    assert (found.candidate_n, found.control_n) == (2, 1)


@pytest.mark.parametrize(
    ("figures", "arms", "share", "alpha"),
    [
        ([1.1], [True], 0.5, 0.1),
        ([-0.1], [True], 0.5, 0.1),
        ([float("nan")], [True], 0.5, 0.1),
        ([0.5], [], 0.5, 0.1),
        ([0.5], [True], 1.0, 0.1),
        ([0.5], [True], 0.5, 0.0),
    ],
)
def test_what_is_no_sample_is_refused(figures: list[float], arms: list[bool], share: float, alpha: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in|need as many"):
        harm_test(figures, arms, share, 0.0, alpha)


@given(devices, shares, st.sampled_from([0.3, 0.05, 0.05 / 112]))
@settings(max_examples=150, deadline=None)
def test_the_bound_is_that_of_a_gambler_who_keeps_books(
    known: list[tuple[float, bool]], share: float, alpha: float
) -> None:
    """By halving the interval, with the capital reckoned device by device, as the paper writes it."""
    assert certain(known, share, alpha) == pytest.approx(by_bisection(known, share, alpha), abs=2**-23)


def by_bisection(known: list[tuple[float, bool]], share: float, alpha: float) -> float:
    def holds(harm: float) -> bool:
        capital, seen, most = [1.0] * len(BETS), [0.0], 0.0
        for x, on_candidate in known:
            centre = sum(seen) / len(seen)
            z = (x - centre) * (1 / share if on_candidate else -1 / (1 - share))
            least = max(centre / share, (1 - centre) / (1 - share))
            capital = [k * (1 + bet * (z - harm) / (least + harm)) for k, bet in zip(capital, BETS, strict=True)]
            seen.append(x)
            most = max(most, sum(capital) / len(BETS))
        return most >= 1 / alpha

    low, high = 0.0, 1.0
    if not any(on_candidate for _, on_candidate in known) or not holds(1e-9):
        return 0.0
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
