"""Benjamini-Hochberg: as published, monotone, and holding its promised rate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from voice_pipeline.stats.fdr import q_values

p_lists = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@given(p_lists)
def test_q_values_are_those_of_scipy(p: list[float]) -> None:
    np.testing.assert_allclose(q_values(p), stats.false_discovery_control(p), atol=1e-12)


@given(p_lists)
def test_q_is_never_below_p_and_keeps_its_order(p: list[float]) -> None:
    q = q_values(p)
    assert all(b >= a - 1e-12 for a, b in zip(p, q, strict=True))
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(np.array(q)[order]) >= -1e-12)


def test_the_share_of_false_discoveries_stays_below_the_rate() -> None:
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(300):
        null, real = rng.uniform(size=40), rng.uniform(0, 1e-4, size=10)
        found = np.array(q_values([*null, *real])) <= 0.1
        shares.append(found[:40].sum() / max(1, found.sum()))
    assert np.mean(shares) < 0.1


def test_no_tests_give_no_q_values() -> None:
    assert q_values([]) == []


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_what_is_no_p_value_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="p-values"):
        q_values([0.5, bad])
