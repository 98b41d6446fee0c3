"""Cuts lie in the silence between the words that they part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from voice_pipeline.speech.recogniser import load_checkpoint
from voice_pipeline.training.cuts import _quietest, find_cuts
from voice_pipeline.training.trainer import train
from voice_pipeline_tests.training.speech_made_of_tones import language, say, spec_of
from voice_pipeline_tests.training.test_batches import spaces


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = spec_of(max_epochs=14, dropout=0.0, join_share=0.2, time_mask_frames=4, frequency_mask_bins=4)
    return train(spec, language(64), language(8, seed=1), [], tmp_path_factory.mktemp("trained")).checkpoint


def test_cuts_are_found_in_the_silence_of_every_space(trained: Path) -> None:
    heard = language(20, seed=2)
    found = find_cuts(*load_checkpoint(trained), heard)
    assert [len(cuts) for cuts in found] == [utterance.text.count(" ") for utterance in heard]
    off = [abs(a - b) for cuts, u in zip(found, heard, strict=True) for a, b in zip(cuts, spaces(u), strict=True)]
    assert len(off) > 10
    assert np.mean(np.array(off) <= 2000) > 0.8  # samples; a space is 3200 long and its neighbours fade


def test_cuts_stay_inside_the_utterance_and_in_order(trained: Path) -> None:
    whole = say("a b ba", "s", 1)
    shouted = replace(whole, samples=np.full_like(whole.samples, 20_000))  # nothing to hear in it
    (cuts,) = find_cuts(*load_checkpoint(trained), [shouted])
    assert list(cuts) == sorted(cuts)
    assert all(0 <= cut <= shouted.sample_count for cut in cuts)


def test_of_two_words_far_apart_the_quietest_place_is_cut() -> None:
    samples = np.full(16_000, 0.1, dtype=np.float32)
    samples[8_000:8_480] = 0.001
    assert 8_000 <= _quietest(samples, 0.2, 0.8) < 8_480
    assert _quietest(samples, 0.4, 0.4) == 6_400
