"""Risk and coverage against values worked out by hand; the order of equally sure clips means nothing."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.stats.selective import risk_coverage, wer_cut

Clip = tuple[float, int, int]
CLIPS = st.lists(
    st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.integers(0, 5), st.integers(0, 8)), min_size=1, max_size=30
)


def columns(clips: list[Clip]) -> tuple[list[float], list[int], list[int]]:
    return [c for c, _, _ in clips], [e for _, e, _ in clips], [w for _, _, w in clips]


def test_the_curve_by_hand() -> None:
    curve = risk_coverage([0.2, 0.9, 0.6], [3, 0, 1], [4, 5, 1])
    assert curve.coverage == pytest.approx((1 / 3, 2 / 3, 1))
    assert curve.risk == pytest.approx((0 / 5, 1 / 6, 4 / 10))
    assert curve.area == pytest.approx((0 + 1 / 6 + 0.4) / 3)
    assert curve.risk_at(0.5) == pytest.approx(1 / 6)


def test_four_fifths_of_five_clips_are_four_of_ten_eight_and_of_six_five() -> None:
    errors = [0, 0, 0, 0, 2]
    assert wer_cut([5, 4, 3, 2, 1], errors, [1] * 5) == pytest.approx(1.0)
    assert risk_coverage(range(10, 0, -1), [0] * 8 + [1, 1], [1] * 10).risk_at(0.8) == 0
    assert risk_coverage(range(6, 0, -1), [0] * 4 + [1, 1], [1] * 6).risk_at(0.8) == pytest.approx(0.2)


def test_the_cut_is_relative_and_negative_where_the_surest_clips_are_worse() -> None:
    assert wer_cut([0.9, 0.8, 0.7, 0.6, 0.1], [1, 0, 0, 0, 1], [2] * 5) == pytest.approx(1 - (1 / 8) / (2 / 10))
    assert wer_cut([0.1, 0.8, 0.7, 0.6, 0.9], [0, 0, 0, 0, 1], [2] * 5) == pytest.approx(1 - (1 / 8) / (1 / 10))
    assert wer_cut([0.5, 0.6], [0, 0], [3, 3]) == 0.0


def test_blind_confidence_cuts_nothing() -> None:
    assert wer_cut([0.5] * 10, [4] + [0] * 9, [2] * 10) == pytest.approx(0.0)


@settings(max_examples=80, deadline=None)
@given(CLIPS, st.randoms(use_true_random=False))
def test_the_order_of_the_clips_means_nothing(clips: list[Clip], rng: random.Random) -> None:
    shuffled = rng.sample(clips, len(clips))
    assert risk_coverage(*columns(shuffled)).risk == pytest.approx(risk_coverage(*columns(clips)).risk)


@settings(max_examples=80, deadline=None)
@given(CLIPS)
def test_accepting_all_is_the_word_error_rate(clips: list[Clip]) -> None:
    sure, errors, words = columns(clips)
    curve = risk_coverage(sure, errors, words)
    assert curve.risk[-1] == pytest.approx(sum(errors) / sum(words) if sum(words) else 0.0)
    assert wer_cut(sure, errors, words, coverage=1.0) == pytest.approx(0.0)
    assert wer_cut(sure, errors, words) <= 1


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=20))
def test_no_confidence_beats_knowing_the_errors(cases: list[tuple[float, int]]) -> None:
    errors = [e for _, e in cases]
    words = [3] * len(cases)
    mine = risk_coverage([c for c, _ in cases], errors, words)
    knowing = risk_coverage([-e for e in errors], errors, words)
    assert all(best <= risk + 1e-12 for best, risk in zip(knowing.risk, mine.risk, strict=True))


@pytest.mark.parametrize("coverage", [0, -0.1, 1.1, np.nan])
def test_no_such_coverage(coverage: float) -> None:
    with pytest.raises(ValueError, match="coverage"):
        risk_coverage([0.5], [0], [1]).risk_at(coverage)


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="equally long"):
        risk_coverage([0.5, 0.6], [1], [1])
    with pytest.raises(ValueError, match="equally long"):
        risk_coverage([], [], [])
