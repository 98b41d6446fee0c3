"""Fixed-sample tests keep their error rates, and too little data never passes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import ArrayLike

from voice_pipeline.stats.proportions import (
    NonInferiority,
    Shares,
    adjust_for_baseline,
    arm_difference,
    non_inferiority,
    paired_difference,
    sample_ratio_p_value,
    share_difference,
)


def two_arms(candidate: ArrayLike, control: ArrayLike, margin: float, alpha: float) -> NonInferiority:
    return non_inferiority(arm_difference(candidate, control), margin, alpha, alpha)


def pairs(differences: ArrayLike, margin: float, alpha: float) -> NonInferiority:
    return non_inferiority(paired_difference(differences), margin, alpha, alpha)


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
        passed += two_arms(rng.normal(0.35, 0.1, 40), rng.normal(0.30, 0.1, 120), 0.05, 0.05).passes
    assert passed / 600 <= 0.08


def test_an_equal_candidate_passes_with_enough_devices() -> None:
    rng = np.random.default_rng(0)
    passed = [two_arms(rng.normal(0.3, 0.1, 80), rng.normal(0.3, 0.1, 80), 0.05, 0.05).passes for _ in range(200)]
    assert np.mean(passed) > 0.85


def test_fewer_than_two_devices_never_pass() -> None:
    assert not two_arms([0.0], [0.5, 0.5], 0.1, 0.05).passes
    assert not two_arms([], [], 0.1, 0.05).passes
    assert not pairs([-1.0], 0.1, 0.05).passes


def test_plain_inferiority_fails() -> None:
    assert two_arms([0.9, 0.8, 0.85, 0.9], [0.2, 0.3, 0.25, 0.2], 0.05, 0.05).fails
    assert pairs([0.5, 0.6, 0.55, 0.5], 0.05, 0.05).fails


def test_the_interval_is_that_of_welchs_test() -> None:
    from scipy.stats import ttest_ind

    rng = np.random.default_rng(5)
    a, b = rng.normal(0.3, 0.1, 12), rng.normal(0.25, 0.2, 30)
    expected = ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    found = two_arms(a, b, 0.05, 0.05)
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


def test_a_rare_event_that_nobody_saw_shows_little() -> None:
    """Without a floor the variance of no event is 0, and any sample of two devices would pass."""
    nothing = Shares([0.0] * 20, [4] * 20, [1.0] * 20)
    assert not non_inferiority(share_difference(nothing, nothing, 0.02), 0.02, 0.025, 0.01).passes
    many = Shares([0.0] * 100, [4] * 100, [1.0] * 100)
    assert non_inferiority(share_difference(many, many, 0.02), 0.02, 0.025, 0.01).passes


def devices(rng: np.random.Generator, n: int, rate: float) -> Shares:
    """Devices that are used very unevenly, each with a rate of its own about `rate`; weights are what they did before,
    and some of those that were used much hardly are now.
    """
    use = rng.gamma(2, 10, n)
    trials = 1 + rng.poisson(use * rng.choice([1.0, 0.05], n, p=[0.9, 0.1]))
    events = rng.binomial(trials, np.clip(rng.gamma(4, rate / 4, n), 0, 1))
    return Shares((events / trials).tolist(), trials.tolist(), (1 + rng.poisson(4 * use)).tolist())


@pytest.mark.parametrize("arm", [15, 50])
@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05])
def test_a_share_worse_by_the_margin_passes_no_more_often_than_alpha(arm: int, rate: float) -> None:
    rng, passed, margin = np.random.default_rng(3), 0, 0.02
    for _ in range(1_000):
        found = share_difference(devices(rng, arm, rate + margin), devices(rng, 300 - arm, rate), margin)
        passed += non_inferiority(found, margin, 0.025, 0.01).passes
    assert passed / 1_000 <= 0.04  # three standard errors of 1 000 trials above 0.025


def test_a_device_that_was_hardly_used_hardly_counts() -> None:
    busy = Shares([0.01] * 20, [100] * 20, [100.0] * 20)
    with_a_stranger = Shares([*busy.shares, 1.0], [*busy.trials, 1], [*busy.weights, 1.0])
    found = share_difference(with_a_stranger, busy, 0.02)
    assert found.value == pytest.approx(21 / 2001 - 0.01)
    assert non_inferiority(found, 0.02, 0.025, 0.01).passes


def test_a_device_counts_by_what_it_did_before_however_little_it_does_now() -> None:
    others = Shares([0.0] * 19, [40] * 19, [40.0] * 19)
    gone = Shares([*others.shares, 1.0], [*others.trials, 2], [*others.weights, 40.0])
    assert share_difference(gone, others, 0.02).value == pytest.approx(1 / 20)


def test_weights_alike_give_the_plain_mean_with_its_variance() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.beta(3, 5, 30), rng.beta(2, 5, 80)  # the candidate's share has more variance: no floor is felt
    arms = [Shares(x.tolist(), [1000] * len(x), [3.0] * len(x)) for x in (a, b)]
    found, plain = share_difference(arms[0], arms[1], 0.0), arm_difference(a, b)
    assert found.value == pytest.approx(plain.value)
    assert found.standard_error == pytest.approx(plain.standard_error)


def test_devices_that_weigh_unevenly_tell_as_much_as_fewer_alike() -> None:
    """One device in twenty with most of the weight: what it says is hardly more than one device's word."""
    rng = np.random.default_rng(6)
    shares = rng.beta(3, 5, 20).tolist()
    many = Shares([0.3] * 400, [1000] * 400, [1.0] * 400)
    alike = share_difference(Shares(shares, [1000] * 20, [1.0] * 20), many, 0.0)
    uneven = share_difference(Shares(shares, [1000] * 20, [50.0] + [1.0] * 19), many, 0.0)
    effective = 69**2 / (2500 + 19)
    weights = np.array([50.0] + [1.0] * 19) / 69
    plain = float(np.sum((weights * (np.array(shares) - np.average(shares, weights=weights))) ** 2))
    assert uneven.standard_error**2 >= plain * effective / (effective - 1)
    assert uneven.freedom == pytest.approx(effective - 1, rel=0.05)
    assert alike.freedom == pytest.approx(19, rel=0.05)


def test_a_level_of_nothing_decides_nothing() -> None:
    found = non_inferiority(arm_difference([0.1, 0.2, 0.1], [0.9, 0.8, 0.9]), 0.05, 0.0, 0.0)
    assert not found.passes
    assert not found.fails


def test_figures_without_spread_give_finite_information() -> None:
    assert np.isfinite(paired_difference([0.0] * 5).information)
    assert arm_difference([0.1], [0.1, 0.1]).information == 0.0
