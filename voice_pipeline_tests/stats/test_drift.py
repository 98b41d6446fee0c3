"""Distances: zero on equals, unbiased under no drift, as large as theory says under drift."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from voice_pipeline.stats.drift import bin_edges, bin_shares, distance, jensen_shannon, ks_distance, psi
from voice_pipeline.stats.sketches import Sketch

samples = st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=150)


@given(samples, samples)
@settings(max_examples=50)
def test_every_distance_stays_in_its_range(first: list[float], second: list[float]) -> None:
    d = distance(Sketch(first), Sketch(second))
    assert d.psi >= 0
    assert 0 <= d.js <= 1
    assert 0 <= d.ks <= 1
    assert 0 <= d.p_value <= 1


@given(samples)
def test_a_sample_is_at_no_distance_from_itself(values: list[float]) -> None:
    d = distance(Sketch(values), Sketch(values))
    assert (d.psi, d.js, d.ks, d.p_value) == (0, 0, 0, 1)


@given(samples, samples)
@settings(max_examples=50)
def test_ks_of_small_samples_is_exact(first: list[float], second: list[float]) -> None:
    expected = stats.ks_2samp(np.array(first, np.float32), np.array(second, np.float32), method="asymp").statistic
    assert ks_distance(Sketch(first), Sketch(second)) == pytest.approx(expected)


def test_without_drift_psi_does_not_cross_a_tenth_however_small_the_window() -> None:
    """Uncorrected PSI crosses 0.1 in most windows of 100 values."""
    rng = np.random.default_rng(0)
    found = [distance(Sketch(rng.normal(size=1000)), Sketch(rng.normal(size=100))) for _ in range(100)]
    assert np.mean([d.psi for d in found]) < 0.03
    assert np.mean([d.psi > 0.1 for d in found]) < 0.1


def test_bin_counts_give_the_textbook_psi_and_js() -> None:
    p, q = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    assert psi(p, q, 10**9, 10**9) == pytest.approx(0.4 * np.log(9), rel=1e-6)
    middle = (p + q) / 2
    expected = (np.sum(p * np.log2(p / middle)) + np.sum(q * np.log2(q / middle))) / 2
    assert jensen_shannon(p, q, 10**9, 10**9) == pytest.approx(expected, rel=1e-6)


def test_a_window_that_lies_wholly_elsewhere_is_as_far_as_can_be() -> None:
    d = distance(Sketch(np.arange(1000.0)), Sketch(np.arange(5000.0, 6000.0)))
    assert d.ks == 1
    assert d.js > 0.6  # 0.65 bits is the most that ten bins at the reference's deciles can show
    assert d.p_value < 1e-100


def test_a_reference_of_one_value_still_gives_finite_distances() -> None:
    d = distance(Sketch([1.0] * 500), Sketch([1.0] * 250 + [2.0] * 250))
    assert np.isfinite([d.psi, d.js, d.ks]).all()
    assert d.ks == pytest.approx(0.5)


@given(samples)
def test_bins_are_never_empty_shares(values: list[float]) -> None:
    shares = bin_shares(Sketch(values), bin_edges(Sketch(values)))
    assert shares.min() > 0
    assert shares.sum() == pytest.approx(1)
