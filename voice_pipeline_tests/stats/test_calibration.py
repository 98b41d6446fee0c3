"""Calibration errors against values worked out by hand, and what must hold of them for any confidences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.stats.calibration import (
    Bin,
    area_under_roc,
    brier_score,
    calibration_error,
    chance_calibration_error,
    debiased_calibration_error,
    reliability,
    sweep_calibration_error,
)

Cases = list[tuple[float, bool]]
CASES = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def columns(cases: Cases) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p for p, _ in cases]), np.array([r for _, r in cases])


def test_bins_hold_equal_counts_in_order_of_confidence() -> None:
    assert reliability([0.9, 0.1, 0.3, 0.7], [1, 0, 1, 0], bins=2) == (
        Bin(2, pytest.approx(0.2), 0.5),
        Bin(2, pytest.approx(0.8), 0.5),
    )


def test_calibration_error_by_hand() -> None:
    # bins {.1, .3}: |.2 - .5| and {.7, .9}: |.8 - .5|, two clips each
    assert calibration_error([0.9, 0.1, 0.3, 0.7], [1, 0, 1, 0], bins=2) == pytest.approx(0.3)
    assert calibration_error(np.ones(100), [True, False] * 50) == pytest.approx(0.5)
    assert calibration_error(np.full(100, 0.5), [True, False] * 50) == pytest.approx(0.0)


def test_the_sweep_stops_at_the_last_number_of_bins_that_still_rises() -> None:
    # shares of 2 bins: .5 and .5, gaps |.2 - .5| and |.8 - .5|; of 3 bins {.1, .3}, {.7}, {.9}: .5, 0, 1, which fall
    assert sweep_calibration_error([0.9, 0.1, 0.3, 0.7], [1, 0, 1, 0]) == pytest.approx(0.3)
    # all four bins rise: gaps .1, .3, .3, .1 of one clip each
    assert sweep_calibration_error([0.9, 0.1, 0.3, 0.7], [1, 0, 0, 1]) == pytest.approx(0.2)
    # two bins would fall: one bin, |.5 - .5|
    assert sweep_calibration_error([0.2, 0.8], [1, 0]) == pytest.approx(0.0)


def test_the_debiased_error_leaves_out_what_the_bins_own_noise_explains() -> None:
    # one bin of 4, share .5, confidence .8: .09 - .25 / 3
    assert debiased_calibration_error([0.8] * 4, [1, 1, 0, 0], bins=1) == pytest.approx((0.09 - 0.25 / 3) ** 0.5)
    assert debiased_calibration_error([0.6] * 4, [1, 1, 0, 0], bins=1) == 0.0


def test_few_perfectly_calibrated_clips_look_miscalibrated_and_the_chance_level_says_by_how_much() -> None:
    rng = np.random.default_rng(0)
    sure = rng.beta(4, 0.7, 130)
    drawn = [rng.random(130) < sure for _ in range(100)]
    usual = float(np.mean([calibration_error(sure, right) for right in drawn]))
    swept = float(np.mean([sweep_calibration_error(sure, right) for right in drawn]))
    assert usual > 0.05
    assert chance_calibration_error(sure) == pytest.approx(usual, abs=0.005)
    assert swept < 0.75 * usual


def test_brier_by_hand() -> None:
    assert brier_score([0.8, 0.4], [1, 0]) == pytest.approx((0.04 + 0.16) / 2)


def test_area_under_roc_counts_ties_half() -> None:
    assert area_under_roc([0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0]) == pytest.approx(3.5 / 4)
    assert area_under_roc([0.9, 0.1], [1, 1]) == 0.5


@settings(max_examples=50, deadline=None)
@given(CASES)
def test_measures_stay_in_range_and_auc_mirrors(cases: Cases) -> None:
    sure, right = columns(cases)
    for measure in (calibration_error, sweep_calibration_error, debiased_calibration_error, brier_score):
        assert 0 <= measure(sure, right) <= 1 + 1e-12
    assert area_under_roc(sure, right) + area_under_roc(-sure, right) == pytest.approx(1)


@settings(max_examples=50, deadline=None)
@given(CASES)
def test_one_bin_never_shows_more_than_many(cases: Cases) -> None:
    sure, right = columns(cases)
    assert calibration_error(sure, right, bins=1) <= calibration_error(sure, right) + 1e-12
    assert calibration_error(sure, right, bins=1) <= sweep_calibration_error(sure, right) + 1e-12


def test_columns_of_different_length_are_refused() -> None:
    for wrong in (([], []), ([0.5], [1, 0])):
        with pytest.raises(ValueError, match="equally long"):
            calibration_error(*wrong)
