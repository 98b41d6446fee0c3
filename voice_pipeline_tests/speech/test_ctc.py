"""The likelihood of a text is PyTorch's CTC loss, and over all texts it is one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.speech.ctc import IMPOSSIBLE, log_likelihood
from voice_pipeline.speech.decoding import greedy
from voice_pipeline.speech.tokenizer import CharTokenizer


def posteriors(frames: int, classes: int, seed: int, sharp: float = 1.0) -> np.ndarray:
    scores = torch.from_numpy(np.random.default_rng(seed).normal(0, sharp, (frames, classes)))
    return torch.log_softmax(scores, dim=1).numpy().astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.lists(st.integers(1, 5), max_size=12), st.integers(0, 99), st.sampled_from([1.0, 8.0]))
def test_it_is_pytorchs_ctc_loss(frames: int, labels: list[int], seed: int, sharp: float) -> None:
    log_probs = posteriors(frames, 6, seed, sharp)
    loss = torch.nn.functional.ctc_loss(
        torch.from_numpy(log_probs).double()[:, None],
        torch.tensor([labels], dtype=torch.long),
        torch.tensor([frames]),
        torch.tensor([len(labels)]),
        reduction="sum",
    )
    expected = max(-float(loss), IMPOSSIBLE)
    assert log_likelihood(log_probs, labels) == pytest.approx(min(expected, 0.0), rel=1e-9, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(0, 99))
def test_the_probabilities_of_all_texts_sum_to_one(frames: int, seed: int) -> None:
    log_probs = posteriors(frames, 3, seed)
    texts = [text for length in range(frames + 1) for text in product((1, 2), repeat=length)]
    assert sum(np.exp(log_likelihood(log_probs, text)) for text in texts) == pytest.approx(1, abs=1e-5)


def test_a_text_that_does_not_fit_is_impossible_and_still_a_number() -> None:
    assert log_likelihood(posteriors(3, 6, 0), [1, 1, 1]) == IMPOSSIBLE


def test_what_greedy_heard_carries_its_likelihood() -> None:
    tokenizer = CharTokenizer()
    log_probs = posteriors(40, 28, 0, sharp=6)
    heard = greedy(log_probs, tokenizer, 0.02)
    best = log_probs.max(axis=1).sum()
    assert best <= heard.posteriors.log_posterior <= 0, "the best path is one of the text's alignments"
    sharper = greedy(posteriors(40, 28, 0, sharp=60), tokenizer, 0.02)
    assert sharper.text == heard.text
    assert sharper.posteriors.log_posterior > heard.posteriors.log_posterior
    assert sharper.posteriors.character_entropy < heard.posteriors.character_entropy
