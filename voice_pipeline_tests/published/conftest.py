"""A corpus of the shape of AN4, spoken by eSpeak NG: twelve speakers, three of whom are the official test."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voice_pipeline.fleet.voices import Synthesiser, Voice
from voice_pipeline.speech.audio import SAMPLE_RATE

WORDS = ("yes", "no", "go", "stop", "one two", "two three", "go one", "yes three")


@pytest.fixture(scope="session")
def spoken_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, synthesiser = tmp_path_factory.mktemp("corpus"), Synthesiser()
    lines = []
    for speaker in range(12):
        voice = Voice("en-us", "American", "male", rate=150 + 5 * speaker, pitch=30 + 4 * speaker)
        for number, text in enumerate(WORDS):
            samples = synthesiser.speak(text, voice)
            name = f"s{speaker}-{number}.wav"
            soundfile.write(folder / name, samples, SAMPLE_RATE, subtype="PCM_16")
            lines.append(
                {
                    "path": name,
                    "text": text,
                    "speaker": f"s{speaker}",
                    "duration_s": len(samples) / SAMPLE_RATE,
                    "corpus": "an4",
                    "split": "test" if speaker >= 9 else "train",
                }
            )
    other = {**lines[0], "corpus": "elsewhere", "speaker": "nobody", "path": "absent.wav"}
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, [*lines, other])))
    random = np.random.default_rng(0)
    noises = []
    for name, kind, samples in (
        ("hiss.wav", "noise", 0.1 * random.standard_normal(16_000)),
        ("room.wav", "rir", random.standard_normal(4_000) * np.exp(-np.arange(4_000) / 500)),
    ):
        soundfile.write(folder / name, np.clip(samples, -1, 1), SAMPLE_RATE, subtype="PCM_16")
        noises.append({"path": name, "kind": kind})
    (folder / "noise.jsonl").write_text("\n".join(map(json.dumps, noises)))
    return folder
