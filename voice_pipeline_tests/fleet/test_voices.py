"""Synthetic speakers say the same thing the same way, in any order, and differ from one another."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from voice_pipeline.fleet.errors import SynthesisError
from voice_pipeline.fleet.voices import HOME_ACCENTS, LEVEL, NEW_ACCENTS, VARIANTS, Synthesiser, Voice

ANNA = Voice("en-us+f1", "US English", "female")
TEXT = "rubout g m e f three nine"
PRINT = (
    "import hashlib; from voice_pipeline.fleet.voices import *; s = Synthesiser(); v = Voice('en-us+f1', '', '');"
    f"print(hashlib.sha256(s.speak({TEXT!r}, v).tobytes()).hexdigest())"
)


def test_the_same_words_are_the_same_samples_whatever_was_said_before() -> None:
    synthesiser = Synthesiser()
    first = synthesiser.speak(TEXT, ANNA)
    synthesiser.speak("something else", Voice("de+m2", "German", "male"))
    assert np.array_equal(first, synthesiser.speak(TEXT, ANNA))


def test_another_process_speaks_the_same_samples() -> None:
    other = subprocess.run([sys.executable, "-c", PRINT], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hashlib.sha256(Synthesiser().speak(TEXT, ANNA).tobytes()).hexdigest()


def test_speech_is_16_khz_float32_at_its_level_without_long_silence() -> None:
    samples = Synthesiser().speak(TEXT, ANNA)
    assert samples.dtype == np.float32
    assert 1.0 < samples.size / 16_000 < 4.0
    assert np.abs(samples).max() == pytest.approx(LEVEL, abs=1e-3)
    loud = np.flatnonzero(np.abs(samples) > 0.02 * LEVEL)
    assert loud[0] < 1_600
    assert samples.size - loud[-1] < 1_600


@pytest.mark.parametrize("accent", [*HOME_ACCENTS, *NEW_ACCENTS])
def test_every_accent_speaks_with_a_male_and_a_female_voice(accent: str) -> None:
    voices = [Voice(f"{accent}+{variant}", "", gender) for variant, gender in VARIANTS[:2]]
    low, high = (Synthesiser().speak("one two three", voice) for voice in voices)
    assert low.size != high.size or not np.array_equal(low, high)


def test_an_unknown_voice_is_named_and_harms_no_later_call() -> None:
    synthesiser = Synthesiser()
    with pytest.raises(SynthesisError, match="martian"):
        synthesiser.speak(TEXT, Voice("martian", "", ""))
    assert synthesiser.speak(TEXT, ANNA).size > 0


@pytest.mark.parametrize("text", ["", "   ", "..."])
def test_nothing_to_say_is_an_error(text: str) -> None:
    with pytest.raises(SynthesisError, match="says nothing"):
        Synthesiser().speak(text, ANNA)
