"""Anytime-valid bounds: their error rate holds over all looks together, and real harm is seen on few devices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.stats.sequential import BETS, harm_test, lower_bound, upper_bound

ALPHA = 0.1
unit = st.floats(0, 1, allow_nan=False)


def draws(name: str, rng: np.random.Generator, n: int) -> np.ndarray:
    if name == "bernoulli":
        return (rng.random(n) < 0.1).astype(float)
    return rng.beta(2, 4, n)


@pytest.mark.parametrize(("name", "mean"), [("bernoulli", 0.1), ("beta", 1 / 3)])
def test_the_bounds_ever_miss_the_mean_no_more_often_than_alpha(name: str, mean: float) -> None:
    """`lower_bound` is the running maximum over all looks, so one call at the end counts every look."""
    rng = np.random.default_rng(1)
    samples = [draws(name, rng, 200) for _ in range(400)]
    missed_below = sum(lower_bound(x, ALPHA) > mean for x in samples) / 400
    missed_above = sum(upper_bound(x, ALPHA) < mean for x in samples) / 400
    assert max(missed_below, missed_above) <= ALPHA + 0.045  # three standard errors of 400 trials


@given(st.lists(unit, min_size=1, max_size=60))
@settings(max_examples=80, deadline=None)
def test_a_bound_only_ever_tightens(values: list[float]) -> None:
    assert lower_bound(values, ALPHA) >= lower_bound(values[:-1], ALPHA) - 1e-6
    assert upper_bound(values, ALPHA) <= upper_bound(values[:-1], ALPHA) + 1e-6


@given(st.lists(unit, max_size=60))
@settings(max_examples=80, deadline=None)
def test_bounds_stay_in_range_and_mirror_each_other(values: list[float]) -> None:
    assert 0 <= lower_bound(values, ALPHA) <= 1
    assert upper_bound(values, ALPHA) == pytest.approx(1 - lower_bound([1 - v for v in values], ALPHA))


def test_bounds_close_in_on_the_mean() -> None:
    x = np.random.default_rng(0).beta(2, 4, 2000)
    assert lower_bound(x, ALPHA) > 0.30
    assert upper_bound(x, ALPHA) < 0.37


@pytest.mark.parametrize("bad", [[1.1], [-0.1], [float("nan")]])
def test_observations_outside_the_unit_interval_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        lower_bound(bad, ALPHA)


def test_gross_harm_is_certain_on_ten_devices() -> None:
    rng = np.random.default_rng(2)
    control = np.clip(rng.normal(0.3, 0.15, 285), 0, 1)
    assert harm_test(np.full(10, 0.95), control, 0.05, 0.05 / 18).harmful
    assert not harm_test(np.full(2, 0.95), control, 0.05, 0.05 / 18).harmful


def test_equal_arms_are_ever_called_harmful_no_more_often_than_alpha() -> None:
    rng = np.random.default_rng(7)
    false = sum(harm_test(rng.beta(2, 4, 60), rng.beta(2, 4, 120), 0.0, ALPHA).harmful for _ in range(300))
    assert false / 300 <= ALPHA + 0.05


def test_nothing_observed_is_no_harm() -> None:
    assert not harm_test([], [], 0.0, 0.05).harmful
    assert not harm_test([1.0] * 50, [], 0.0, 0.05).harmful


shares_of_devices = st.lists(st.integers(0, 4).map(lambda bad: bad / 4), max_size=300)


@given(st.one_of(shares_of_devices, st.lists(unit, max_size=60)), st.sampled_from([0.3, 0.05, 0.05 / 112]))
@settings(max_examples=150, deadline=None)
def test_the_quick_search_finds_what_halving_the_interval_finds(values: list[float], alpha: float) -> None:
    for x in (np.asarray(values), 1 - np.asarray(values)):
        assert lower_bound(x, alpha) == pytest.approx(by_bisection(x, alpha), abs=2**-24)


def by_bisection(x: np.ndarray, alpha: float) -> float:
    """The bound as it was first computed: the capital's crossing of 1 / alpha, halving [0, 1] 24 times."""

    def holds(mean: float) -> bool:
        paths = np.cumsum(np.log1p(np.array(BETS)[:, None] * (x / mean - 1)), axis=1)
        top = paths.max(axis=0)
        return bool((top + np.log(np.exp(paths - top).mean(axis=0))).max() >= math.log(1 / alpha))

    low, high = 0.0, 1.0
    if not len(x) or not holds(1e-9):
        return 0.0
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
