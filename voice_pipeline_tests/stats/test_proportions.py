"""Fixed-sample tests keep their error rates, and too little data never passes."""

from __future__ import annotations

import numpy as np
import pytest

from voice_pipeline.stats.proportions import (
    adjust_for_baseline,
    non_inferiority,
    paired_non_inferiority,
    sample_ratio_p_value,
)


def test_an_assigned_split_is_accepted_and_a_lopsided_one_is_not() -> None:
    assert sample_ratio_p_value((51, 949), (0.05, 0.95)) > 0.5
    assert sample_ratio_p_value((20, 980), (0.05, 0.95)) < 0.001
    assert sample_ratio_p_value((0, 0), (0.5, 0.5)) == 1.0


def test_the_sample_ratio_p_value_is_that_of_pearsons_test() -> None:
    # chi-square 4.0 at one degree of freedom, from any printed table
    assert sample_ratio_p_value((40, 60), (0.5, 0.5)) == pytest.approx(0.0455, abs=1e-4)


def test_shares_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        sample_ratio_p_value((1, 2), (0.5, 0.6))


def test_a_candidate_worse_by_the_margin_passes_no_more_often_than_alpha() -> None:
    rng, passed = np.random.default_rng(0), 0
    for _ in range(600):
        passed += non_inferiority(rng.normal(0.35, 0.1, 40), rng.normal(0.30, 0.1, 120), 0.05, 0.05).passes
    assert passed / 600 <= 0.08


def test_an_equal_candidate_passes_with_enough_devices() -> None:
    rng = np.random.default_rng(0)
    passed = [
        non_inferiority(rng.normal(0.3, 0.1, 80), rng.normal(0.3, 0.1, 80), 0.05, 0.05).passes for _ in range(200)
    ]
    assert np.mean(passed) > 0.85


def test_fewer_than_two_devices_never_pass() -> None:
    assert not non_inferiority([0.0], [0.5, 0.5], 0.1, 0.05).passes
    assert not non_inferiority([], [], 0.1, 0.05).passes
    assert not paired_non_inferiority([-1.0], 0.1, 0.05).passes


def test_plain_inferiority_fails() -> None:
    assert non_inferiority([0.9, 0.8, 0.85, 0.9], [0.2, 0.3, 0.25, 0.2], 0.05, 0.05).fails
    assert paired_non_inferiority([0.5, 0.6, 0.55, 0.5], 0.05, 0.05).fails


def test_the_interval_is_that_of_welchs_test() -> None:
    from scipy.stats import ttest_ind

    rng = np.random.default_rng(5)
    a, b = rng.normal(0.3, 0.1, 12), rng.normal(0.25, 0.2, 30)
    expected = ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    found = non_inferiority(a, b, 0.05, 0.05)
    assert (found.lower, found.upper) == pytest.approx((expected.low, expected.high))


def test_a_devices_history_takes_spread_out_and_leaves_the_difference() -> None:
    rng = np.random.default_rng(1)
    habit = rng.normal(0.3, 0.1, 400)
    arms = np.arange(400) % 2 == 0
    values = habit + rng.normal(0, 0.02, 400) + np.where(arms, 0.05, 0.0)
    adjusted = adjust_for_baseline(values.tolist(), habit.tolist(), arms.tolist())
    assert adjusted[arms].std() < 0.5 * values[arms].std()
    assert adjusted[arms].mean() - adjusted[~arms].mean() == pytest.approx(0.05, abs=0.01)


def test_without_history_nothing_is_adjusted() -> None:
    values = [0.1, 0.2, 0.3]
    assert adjust_for_baseline(values, [None, None, None], [True, False, True]).tolist() == values
