"""Greedy decoding inverts any alignment of a text, and its spans and statistics say what the posteriors say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.speech.decoding import greedy
from voice_pipeline.speech.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer()
texts = st.lists(st.text("abc'", min_size=1, max_size=4), max_size=4).map(" ".join)


def posteriors(path: list[int], sure: float = 0.9) -> np.ndarray:
    """(T, V) log-probabilities whose best class at each frame is that of `path`."""
    probabilities = np.full((len(path), TOKENIZER.size), (1 - sure) / (TOKENIZER.size - 1))
    probabilities[np.arange(len(path)), path] = sure
    return np.log(probabilities).astype(np.float32)


@st.composite
def alignments(draw: st.DrawFn) -> tuple[str, list[int]]:
    text = draw(texts)
    path = [0] * draw(st.integers(1, 3))
    for index in TOKENIZER.encode(text):
        path += [index] * draw(st.integers(1, 3)) + [0] * draw(st.integers(1, 3))
    return text, path


@given(alignments())
def test_every_alignment_of_a_text_decodes_to_it(case: tuple[str, list[int]]) -> None:
    text, path = case
    found = greedy(posteriors(path), TOKENIZER, 0.04)
    assert found.text == text
    assert tuple(word.text for word in found.words) == tuple(text.split())
    edges = [edge for word in found.words for edge in (word.start_s, word.end_s)]
    assert edges == sorted(edges)
    assert not edges or edges[-1] <= len(path) * 0.04 + 1e-9
    assert found.posteriors.words == len(text.split())


def test_repeats_collapse_unless_a_blank_parts_them() -> None:
    a, b = TOKENIZER.encode("ab")
    assert greedy(posteriors([a, a, b]), TOKENIZER, 0.01).text == "ab"
    assert greedy(posteriors([a, 0, a, b]), TOKENIZER, 0.01).text == "aab"


def test_word_times_are_those_of_their_frames() -> None:
    a, space = TOKENIZER.encode("a")[0], TOKENIZER.space
    first, second = greedy(posteriors([0, a, a, space, 0, a]), TOKENIZER, 0.1).words
    assert (first.start_s, first.end_s) == pytest.approx((0.1, 0.3))
    assert (second.start_s, second.end_s) == pytest.approx((0.5, 0.6))
    assert first.confidence == pytest.approx(0.9, abs=1e-3)


def test_less_sure_posteriors_give_less_sure_statistics() -> None:
    path = [0, 3, 4, 0]
    sure, unsure = (greedy(posteriors(path, p), TOKENIZER, 0.01).posteriors for p in (0.95, 0.5))
    assert sure.mean_best > unsure.mean_best
    assert sure.mean_margin > unsure.mean_margin
    assert sure.mean_entropy < unsure.mean_entropy


def test_nothing_heard_is_an_empty_text_with_no_confidence() -> None:
    found = greedy(posteriors([0, 0, 0]), TOKENIZER, 0.01)
    assert (found.text, found.words) == ("", ())
    assert (found.posteriors.mean_word, found.posteriors.blank_share) == (0, 1)
