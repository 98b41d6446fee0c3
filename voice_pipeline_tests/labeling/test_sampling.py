"""Draws have the probabilities they state."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.labeling.sampling import draw, inclusion_probabilities, uniform

SIZES = st.dictionaries(st.text(min_size=1, max_size=6), st.floats(0, 1), min_size=1, max_size=40)


@given(SIZES, st.integers(0, 50))
def test_probabilities_sum_to_the_budget_and_stay_within_one(sizes: dict[str, float], count: int) -> None:
    probabilities = inclusion_probabilities(sizes, count)
    assert set(probabilities) == set(sizes)
    assert all(0 <= p <= 1 + 1e-12 for p in probabilities.values())
    assert sum(probabilities.values()) == pytest.approx(min(count, len(sizes)))


@given(SIZES, st.integers(0, 50), st.integers(0, 5))
def test_a_draw_spends_exactly_the_budget(sizes: dict[str, float], count: int, seed: int) -> None:
    assert len(draw(inclusion_probabilities(sizes, count), seed, "test")) == min(count, len(sizes))


@given(SIZES, st.integers(1, 50))
def test_no_clip_is_impossible_to_draw_while_there_is_a_budget(sizes: dict[str, float], count: int) -> None:
    small = sum(size <= 1e-3 for size in sizes.values())
    probabilities = inclusion_probabilities(sizes, count)
    if count > len(sizes) - small:
        assert all(p > 0 for p in probabilities.values())


def test_each_clip_is_drawn_as_often_as_its_probability_says() -> None:
    probabilities = inclusion_probabilities({"a": 0.9, "b": 0.5, "c": 0.3, "d": 0.2, "e": 0.1}, 2)
    seen = Counter(key for seed in range(4000) for key in draw(probabilities, seed, "test"))
    for key, probability in probabilities.items():
        assert seen[key] / 4000 == pytest.approx(probability, abs=0.03)


def test_weighting_by_inclusion_gives_back_the_mean_of_all_clips() -> None:
    """Horvitz-Thompson: although unsure clips are drawn far more often, the weighted error rate is that of all."""
    sizes = {f"clip-{i}": 0.05 + 0.9 * (i % 10) / 9 for i in range(200)}
    wrong = {key: float(size > 0.5) for key, size in sizes.items()}
    probabilities = inclusion_probabilities(sizes, 40)
    estimates, naive = [], []
    for seed in range(300):
        drawn = draw(probabilities, seed, "test")
        estimates.append(sum(wrong[key] / probabilities[key] for key in drawn) / len(sizes))
        naive.append(sum(wrong[key] for key in drawn) / len(drawn))
    truth = sum(wrong.values()) / len(wrong)
    assert sum(estimates) / 300 == pytest.approx(truth, abs=0.02)
    assert sum(naive) / 300 > truth + 0.1


def test_the_same_question_gets_the_same_draw_and_another_purpose_another() -> None:
    assert uniform(1, "audit", "clip") == uniform(1, "audit", "clip")
    assert uniform(1, "audit", "clip") != uniform(1, "second_pass", "clip")
    shares = [uniform(3, "audit", str(i)) < 0.02 for i in range(20_000)]
    assert sum(shares) / 20_000 == pytest.approx(0.02, abs=0.004)
