"""Bootstrap: intervals cover, whole clusters are resampled, pairs stay together, a seed repeats itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.stats.bootstrap import cluster_bootstrap_ratio, paired_bootstrap_relative

counts = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=40)


@given(counts)
@settings(max_examples=60, deadline=None)
def test_the_value_is_the_pooled_ratio_and_lies_in_range(rows: list[tuple[int, int, int]]) -> None:
    errors, words, speakers = zip(*rows, strict=True)
    value, low, high = cluster_bootstrap_ratio(errors, words, speakers, n=200)
    assert value == pytest.approx(sum(errors) / sum(words))
    assert 0 <= low <= high


def test_one_cluster_has_no_spread() -> None:
    assert cluster_bootstrap_ratio([1, 0, 2], [4, 4, 4], ["a", "a", "a"]) == (0.25, 0.25, 0.25)


def test_no_words_give_zero_and_nothing_at_all_is_refused() -> None:
    assert cluster_bootstrap_ratio([0], [0], ["a"]) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="non-empty"):
        cluster_bootstrap_ratio([], [], [])
    with pytest.raises(ValueError, match="equally long"):
        cluster_bootstrap_ratio([1, 2], [1], ["a", "b"])
    with pytest.raises(ValueError, match="level"):
        cluster_bootstrap_ratio([1], [1], ["a"], level=1.0)


def test_a_95_percent_interval_covers_the_truth_about_as_often() -> None:
    rng, covered = np.random.default_rng(3), 0
    for trial in range(200):
        rates = rng.beta(4, 12, 60)  # 60 speakers who differ; the mean of Beta(4, 12) is 0.25
        errors = rng.binomial(10, np.repeat(rates, 5))
        _, low, high = cluster_bootstrap_ratio(errors, np.full(300, 10), np.repeat(np.arange(60), 5), n=400, seed=trial)
        covered += low <= 0.25 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_speakers_who_differ_widen_the_interval_beyond_that_of_utterances() -> None:
    speakers = np.repeat(np.arange(10), 20)
    errors = np.where(speakers % 2 == 0, 0, 4)
    words = np.full(200, 10)
    _, low, high = cluster_bootstrap_ratio(errors, words, speakers)
    _, low_wrong, high_wrong = cluster_bootstrap_ratio(errors, words, list(range(200)))
    assert high - low > 3 * (high_wrong - low_wrong)


def test_the_same_seed_gives_the_same_interval_in_any_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 5, 50), np.full(50, 8), rng.integers(0, 9, 50).tolist()
    first = cluster_bootstrap_ratio(*data, n=300, seed=4)
    monkeypatch.setattr("voice_pipeline.stats.bootstrap._BLOCK_CELLS", 70)
    assert cluster_bootstrap_ratio(*data, n=300, seed=4) == first


def test_a_paired_improvement_is_certain_where_unpaired_intervals_overlap() -> None:
    rng = np.random.default_rng(1)
    speakers = np.repeat(np.arange(30), 4)
    base = rng.binomial(10, np.repeat(rng.uniform(0.1, 0.9, 30), 4))
    better = np.maximum(base - 1, 0)
    words = np.full(120, 10)
    result = paired_bootstrap_relative(base, better, words, speakers)
    assert result.low > 0
    assert result.probability_worse == 0
    unpaired_high = cluster_bootstrap_ratio(better, words, speakers)[2]
    assert unpaired_high > cluster_bootstrap_ratio(base, words, speakers)[1]


def test_equal_systems_are_worse_half_of_the_time() -> None:
    errors, words = [1, 2, 0, 3], [5, 5, 5, 5]
    result = paired_bootstrap_relative(errors, errors, words, ["a", "b", "c", "d"])
    assert (result.relative_improvement, result.absolute_change, result.probability_worse) == (0.0, 0.0, 0.5)


def test_a_baseline_without_errors_cannot_be_improved_upon() -> None:
    words, speakers = [5, 5], ["a", "b"]
    assert paired_bootstrap_relative([0, 0], [0, 0], words, speakers).relative_improvement == 0.0
    assert paired_bootstrap_relative([0, 0], [1, 0], words, speakers).relative_improvement == -np.inf
