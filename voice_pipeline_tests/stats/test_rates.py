"""Intervals of shares and rates against published values and against what they promise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from voice_pipeline.stats.rates import poisson_rate_interval, wilson_interval


def test_published_poisson_limits() -> None:
    """Garwood (1936), 95 %: 0 events 0 - 3.689, 1 event 0.0253 - 5.572, 10 events 4.795 - 18.39."""
    assert poisson_rate_interval(0, 1) == pytest.approx((0, 3.6889), abs=1e-4)
    assert poisson_rate_interval(1, 1) == pytest.approx((0.0253, 5.5716), abs=1e-4)
    assert poisson_rate_interval(10, 2) == pytest.approx((4.7954 / 2, 18.3904 / 2), abs=1e-4)


@given(st.integers(0, 200), st.floats(0.01, 100))
def test_poisson_limits_leave_a_fortieth_on_each_side(events: int, hours: float) -> None:
    low, high = poisson_rate_interval(events, hours)
    assert low <= events / hours <= high
    assert stats.poisson.cdf(events, high * hours) == pytest.approx(0.025)
    if events:
        assert stats.poisson.sf(events - 1, low * hours) == pytest.approx(0.025)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts: tuple[int, int]) -> None:
    found = stats.binomtest(*counts).proportion_ci(0.95, method="wilson")
    assert wilson_interval(*counts) == pytest.approx((found.low, found.high), abs=1e-9)


@pytest.mark.parametrize("counts", [(0, 0), (3, 2), (-1, 4)])
def test_no_share_of_nothing(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no share"):
        wilson_interval(*counts)


@pytest.mark.parametrize(("events", "hours"), [(-1, 1.0), (1, 0.0), (1, float("nan"))])
def test_no_rate_without_exposure(events: int, hours: float) -> None:
    with pytest.raises(ValueError, match="no rate"):
        poisson_rate_interval(events, hours)
