"""The spotter against all windows and all CTC paths written out, and what a device would fire on."""

from __future__ import annotations

from itertools import groupby, pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from voice_pipeline.speech.errors import TokenizerError
from voice_pipeline.speech.tokenizer import BLANK, CharTokenizer
from voice_pipeline.speech.wakeword import FLOOR, detections, operating_threshold, phrase_classes, spot

TWO = CharTokenizer(" ab")


def posteriors(frames: int, seed: int, classes: int = 4) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).normal(0, 3, (frames, classes))
    return np.asarray(drawn - np.log(np.exp(drawn).sum(axis=1, keepdims=True)), dtype=np.float32)


def written_out(log_probs: NDArray[np.float32], labels: tuple[int, ...], longest: int) -> list[float]:
    """Each last frame: over all first frames, the best of all paths that collapse to `labels`, less the free one."""
    margins = np.maximum(log_probs.astype(float) - log_probs.max(axis=1, keepdims=True), FLOOR)
    best = []
    for last in range(len(margins)):
        ratios = [-np.inf]
        for first in range(last + 1):
            for path in product(range(margins.shape[1]), repeat=last + 1 - first):
                runs = [(label, len(list(run))) for label, run in groupby(path)]
                spelled = tuple(label for label, _ in runs if label != BLANK) == labels
                if spelled and path[-1] != BLANK and path[0] != BLANK and max(n for _, n in runs) <= longest:
                    ratios.append(sum(margins[first + n, label] for n, label in enumerate(path)) / len(labels))
        best.append(max(ratios))
    return best


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(0, 10_000),
    st.sampled_from(["a", "ab", "aa", "a b", "aba", "bb a"]),
    st.integers(1, 6),
)
def test_the_score_is_that_of_the_best_window_and_path(frames: int, seed: int, phrase: str, longest: int) -> None:
    log_probs = posteriors(frames, seed)
    expected = written_out(log_probs, tuple(TWO.encode(phrase)), longest)
    assert spot(log_probs, phrase_classes(phrase, TWO), longest) == pytest.approx(np.array(expected), abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_zero_means_that_greedy_decoding_spells_it(best: list[int]) -> None:
    log_probs = np.full((len(best), 4), -20.0, dtype=np.float32)
    log_probs[np.arange(len(best)), best] = -0.1
    heard = "".join(TWO.alphabet[label - 1] for label, _ in groupby(best) if label != BLANK)
    found = spot(log_probs, phrase_classes("ab", TWO), 40).max() >= -1e-9
    assert found == ("ab" in heard)


def test_letters_far_apart_are_no_phrase() -> None:
    log_probs = np.full((30, 4), -20.0, dtype=np.float32)
    log_probs[:, BLANK] = 0.0
    log_probs[[0, 20], TWO.encode("ab")] = 5.0
    assert spot(log_probs, phrase_classes("ab", TWO), 20).max() == 0
    assert spot(log_probs, phrase_classes("ab", TWO), 10).max() < -9


def test_a_cased_alphabet_hears_both_cases() -> None:
    tokenizer = CharTokenizer(" abAB")
    log_probs = np.full((2, 6), -20.0, dtype=np.float32)
    log_probs[[0, 1], [tokenizer.encode("A")[0], tokenizer.encode("b")[0]]] = 0.0
    assert spot(log_probs, phrase_classes("ab", tokenizer), 1).max() == 0


@pytest.mark.parametrize("phrase", ["", "  ", "c", "a1", "é"])
def test_a_phrase_that_cannot_be_spelled_is_refused(phrase: str) -> None:
    with pytest.raises(TokenizerError, match="cannot be spelled"):
        phrase_classes(phrase, TWO)


@given(st.lists(st.floats(-5, 0), min_size=1, max_size=40), st.floats(0.05, 1))
def test_the_threshold_finds_the_required_share_and_none_higher_does(scores: list[float], rate: float) -> None:
    threshold = operating_threshold(scores, rate)
    assert sum(score >= threshold for score in scores) / len(scores) >= rate - 1e-9
    above = [score for score in scores if score > threshold]
    assert len(above) / len(scores) < rate


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 9))
def test_a_device_is_deaf_after_it_fired_and_misses_nothing_else(loud: list[bool], refractory: int) -> None:
    fired = detections(np.where(np.array(loud, dtype=bool), 0.0, -9.0), -1.0, refractory)
    assert all(later - earlier > refractory for earlier, later in pairwise(fired))
    for frame, heard in enumerate(loud):
        assert heard == (frame in fired or (heard and any(0 < frame - f <= refractory for f in fired)))
