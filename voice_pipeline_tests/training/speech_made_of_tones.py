"""A language of two tones: `a` is low, `b` is high. A small network learns it in seconds."""

from __future__ import annotations

import numpy as np

from voice_pipeline.schema.training import Hyperparameters, Preset, TrainingSpec
from voice_pipeline.speech.audio import SAMPLE_RATE, quantise
from voice_pipeline.training.data import Utterance

PITCH = {"a": 300.0, "b": 2500.0, " ": 0.0}


def say(text: str, speaker: str, seed: int) -> Utterance:
    rng = np.random.default_rng(seed)
    times = np.arange(int(0.2 * SAMPLE_RATE)) / SAMPLE_RATE
    sounds = [np.zeros(1600)]
    for character in text:
        tone = np.sin(2 * np.pi * PITCH[character] * (1 + 0.05 * rng.standard_normal()) * times) * np.hanning(
            times.size
        )
        sounds.append(0.3 * tone)
    waveform = np.concatenate([*sounds, np.zeros(1600)])
    return Utterance(f"clip-{seed}", speaker, text, quantise(waveform + rng.normal(0, 0.003, waveform.size)))


def language(count: int, seed: int = 0) -> list[Utterance]:
    rng = np.random.default_rng(seed)
    words = ("a", "b", "ab", "ba", "aba", "bb")
    texts = [" ".join(rng.choice(words, size=rng.integers(1, 4))) for _ in range(count)]
    return [say(text, f"speaker-{number % 4}", seed * 1000 + number) for number, text in enumerate(texts)]


def spec_of(**fields: object) -> TrainingSpec:
    """A quick spec; `fields` are hyperparameters."""
    chosen = {
        "preset": Preset.MICRO,
        "max_epochs": 3,
        "batch_size": 8,
        "learning_rate": 4e-3,
        "noise_share": 0.3,
        "ema_decay": 0.9,
        **fields,
    }
    return TrainingSpec(
        dataset_version="ds-000000000000",
        feature_schema_version="clip_features_v1",
        code_commit="c",
        lock_digest="l",
        hyperparameters=Hyperparameters.model_validate(chosen),
        seed=3,
        alphabet=" ab",
    )
