"""A sound network learns a batch by heart and is heard to; one that is broken anywhere on the way is told from it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from voice_pipeline.schema.training import Preset, TrainingSpec
from voice_pipeline.speech import depthwise
from voice_pipeline.speech.frontend import LogMel, frames_of
from voice_pipeline.speech.recogniser import SHORTEST_INPUT
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.training import overfit as module
from voice_pipeline.training.data import Utterance, Utterances
from voice_pipeline.training.errors import NoTrainingDataError, OverfitError, UnusableAnswerError
from voice_pipeline.training.overfit import Overfit, easiest, overfit, smoke
from voice_pipeline_tests.training.speech_made_of_tones import language, spec_of

CLIPS = language(12)


def learnt(spec: TrainingSpec | None = None) -> Overfit:
    spec = spec or spec_of()
    return overfit(spec, easiest(Utterances.of(CLIPS), spec), 0.01, 100)


@pytest.mark.parametrize(("preset", "rate"), [(Preset.MICRO, 6e-3), (Preset.TINY, 3e-3), (Preset.TINY, 1e-3)])
def test_what_is_learnt_by_heart_is_heard(preset: Preset, rate: float) -> None:
    spec = spec_of(preset=preset, learning_rate=rate)
    done = learnt(spec)
    assert done.last_loss <= 0.01 * done.first_loss
    assert smoke(done.recogniser, easiest(Utterances.of(CLIPS), spec)) <= 0.2


def test_the_same_spec_and_clips_learn_the_same() -> None:
    first, second = learnt(), learnt()
    assert (first.first_loss, first.last_loss, first.steps) == (second.first_loss, second.last_loss, second.steps)


def test_the_shortest_clips_with_different_texts_are_taken_and_nothing_else_is_heard() -> None:
    read: list[str] = []

    def hear(clip: object) -> object:
        read.append(clip.clip_id)  # type: ignore[attr-defined]
        return clip

    chosen = easiest(Utterances(CLIPS, hear), spec_of())
    assert read == [clip.clip_id for clip in chosen]
    assert len({clip.text for clip in chosen}) == len(chosen) == 4
    others = [c.samples.size for c in CLIPS if c.text not in {clip.text for clip in chosen}]
    assert max(clip.samples.size for clip in chosen) <= min(others)


def test_clips_too_short_for_their_text_or_outside_the_alphabet_are_no_batch() -> None:
    short = [dataclasses.replace(c, samples=c.samples[:640]) for c in CLIPS]
    foreign = [dataclasses.replace(c, text="zz") for c in CLIPS]
    for clips in (short, foreign, []):
        with pytest.raises(NoTrainingDataError, match="ds-000000000000"):
            easiest(Utterances.of(clips), spec_of())


def test_gradients_that_do_not_arrive_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.AdamW, "step", lambda self, rate: None)
    with pytest.raises(OverfitError, match=r"loss (\d+\.\d\d) → \1 in 100 steps"):
        learnt()


def test_the_gradient_that_training_in_bfloat16_takes_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depthwise, "weight_gradient", lambda x, y, kernel: torch.full((x.shape[1], kernel), np.nan))
    spec = spec_of()
    clips = easiest(Utterances.of(CLIPS), spec)
    monkeypatch.setattr(module, "uses_bfloat16", lambda device: False)
    assert overfit(spec, clips, 1.0, 2).steps == 1  # this machine may lack the units: then it is nobody's gradient
    monkeypatch.setattr(module, "uses_bfloat16", lambda device: True)
    with pytest.raises(OverfitError, match="nan"):
        overfit(spec, clips, 0.01, 3)


def test_a_loss_that_is_no_number_is_no_success() -> None:
    with pytest.raises(OverfitError, match="nan"):
        learnt(spec_of(learning_rate=1e30))


def test_a_frontend_in_the_network_unlike_the_trainers_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    done = learnt()
    monkeypatch.setattr(LogMel, "forward", lambda self, x: torch.zeros(x.shape[0], x.shape[1] // 160, 80))
    with pytest.raises(UnusableAnswerError, match="wrong characters"):
        smoke(done.recogniser, CLIPS[:4])


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda probs: probs[:-1], "expected"),
        (lambda probs: np.full_like(probs, np.nan), "no distribution"),
        (lambda probs: probs + 1, "no distribution"),
    ],
)
def test_log_probabilities_that_are_none_are_named(monkeypatch: pytest.MonkeyPatch, answer: object, told: str) -> None:
    done = learnt()
    honest = done.recogniser.log_probs
    monkeypatch.setattr(done.recogniser, "log_probs", lambda samples: answer(honest(samples)))  # type: ignore[operator]
    with pytest.raises(UnusableAnswerError, match=told):
        smoke(done.recogniser, CLIPS[:1])


def test_short_clips_are_learnt_with_the_silence_that_a_recogniser_adds() -> None:
    short = Utterance("short", "s", "a", np.zeros(SHORTEST_INPUT // 2, np.int16))
    assert module._batch([short], CharTokenizer(" ab"), 80).lengths.tolist() == [frames_of(SHORTEST_INPUT)]
