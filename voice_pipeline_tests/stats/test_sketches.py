"""Sketches: exact while small, bounded when large, mergeable, and refusing what is no sketch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.stats.sketches import DamagedSketchError, Sketch

numbers = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=200)


@given(numbers)
def test_a_small_sketch_is_the_exact_distribution(values: list[float]) -> None:
    sketch = Sketch(values)
    points = np.unique(np.array(values, dtype=np.float32))
    expected = [np.mean(np.array(values, dtype=np.float32) <= point) for point in points]
    np.testing.assert_allclose(sketch.cdf(points), expected, atol=1e-12)


@given(numbers, numbers)
def test_merging_is_the_same_as_having_seen_both(first: list[float], second: list[float]) -> None:
    merged, whole = Sketch(first), Sketch(first + second)
    merged.merge(Sketch(second))
    points = whole.support()
    assert merged.n == whole.n
    np.testing.assert_allclose(merged.cdf(points), whole.cdf(points))


@given(numbers)
@settings(max_examples=30)
def test_bytes_come_back_as_the_same_sketch(values: list[float]) -> None:
    sketch = Sketch(values)
    again = Sketch.from_bytes(sketch.to_bytes())
    assert again.n == sketch.n
    np.testing.assert_array_equal(again.support(), sketch.support())


def test_memory_stays_bounded_and_ranks_stay_right_at_half_a_million_values() -> None:
    values = np.random.default_rng(0).normal(size=500_000)
    sketch = Sketch(values)
    assert len(sketch.to_bytes()) < 40_000
    assert sketch.cdf(np.array([0.0]))[0] == pytest.approx(0.5, abs=0.005)


def test_values_that_are_not_finite_are_left_out_and_counted() -> None:
    sketch = Sketch([1.0, float("nan"), float("inf"), 2.0])
    assert (sketch.n, sketch.ignored) == (2, 2)


def test_an_empty_sketch_has_no_distribution() -> None:
    with pytest.raises(ValueError, match="empty"):
        Sketch().cdf(np.array([0.0]))


@pytest.mark.parametrize("data", [b"", b"xx", b"\x00" * 64, Sketch([1.0, 2.0, 3.0]).to_bytes()[:9]])
def test_bytes_that_are_no_sketch_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedSketchError):
        Sketch.from_bytes(data)
