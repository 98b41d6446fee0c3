"""Synthetic speakers: eSpeak NG through its C library (https://github.com/espeak-ng/espeak-ng, speak_lib.h).

Promise: `speak` is a pure function, so a seeded corpus is the same bytes on every run. eSpeak carries hidden state from
one utterance to the next (pitch flutter, random aspiration); the library is therefore loaded anew, and C's `rand`
seeded, for each utterance, which costs a few ms.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from voice_pipeline.fleet.errors import SynthesisError
from voice_pipeline.speech.audio import SAMPLE_RATE, Samples, resample

_SYNCHRONOUS_RETRIEVAL = 1  # AUDIO_OUTPUT_RETRIEVAL
_UTF8 = 1  # espeakCHARS_UTF8
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_LOCK = threading.Lock()  # the library's state is global to the process

LEVEL = 0.5
"""Peak of every utterance, as a fraction of full scale."""


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker.

    Args:
        name: eSpeak voice, e.g. `en-gb-scotland+f3`.
        accent, gender: what the speaker would tell about themselves.
        rate: words a minute, 80 to 450.
        pitch, pitch_range: 0 to 99; 50 is the voice's own.
    """

    name: str
    accent: str
    gender: str
    rate: int = 165
    pitch: int = 50
    pitch_range: int = 50


HOME_ACCENTS: dict[str, str] = {
    "en-us": "US English (synthetic)",
    "en-us-nyc": "New York English (synthetic)",
    "en": "British English (synthetic)",
    "en-gb-x-rp": "Received Pronunciation (synthetic)",
    "en-gb-scotland": "Scottish English (synthetic)",
    "en-029": "Caribbean English (synthetic)",
}
"""eSpeak voice of each accent of the home population."""

NEW_ACCENTS: dict[str, str] = {
    "de": "German (synthetic)",
    "nl": "Dutch (synthetic)",
    "sv": "Swedish (synthetic)",
    "pl": "Polish (synthetic)",
    "it": "Italian (synthetic)",
    "pt-br": "Portuguese (synthetic)",
}
"""Foreign voices reading English: the accents of the new population."""

VARIANTS: tuple[tuple[str, str], ...] = tuple(
    (f"{letter}{number}", gender) for number in range(1, 6) for letter, gender in (("m", "male"), ("f", "female"))
)


class Synthesiser:
    """Speaks English text. Instances are cheap and share one lock: utterances are made one after another."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise SynthesisError("espeakng-loader is not installed; run `make` or install requirements.lock") from error
        self._library = espeakng_loader.get_library_path()
        self._data = espeakng_loader.get_data_path().encode()

    def speak(self, text: str, voice: Voice) -> Samples:
        """`text` as 16 kHz mono float32, peak at `LEVEL`, at most 50 ms of silence at both ends; a pure function.

        Raises:
            SynthesisError: eSpeak does not know the voice, or `text` has nothing to say.
        """
        with _LOCK:
            raw, rate = self._synthesise(text, voice)
        if not raw.any():
            raise SynthesisError(f"voice {voice.name} says nothing for {text!r}; give it words")
        samples = resample(raw.astype(np.float32) / np.float32(32_768), rate, SAMPLE_RATE)
        return _trim(samples)

    def _synthesise(self, text: str, voice: Voice) -> tuple[np.ndarray, int]:
        pieces: list[np.ndarray] = []

        @_CALLBACK
        def collect(samples: Any, count: int, _events: Any) -> int:
            if samples and count > 0:
                pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0

        library = ctypes.CDLL(self._library)
        try:
            rate = library.espeak_Initialize(_SYNCHRONOUS_RETRIEVAL, 0, self._data, 0)
            if rate <= 0:
                raise SynthesisError(f"eSpeak NG cannot read its voices in {self._data.decode()}; reinstall it")
            ctypes.CDLL(None).srand(1)
            library.espeak_SetSynthCallback(collect)
            if library.espeak_SetVoiceByName(voice.name.encode()) != 0:
                raise SynthesisError(
                    f"eSpeak NG has no voice {voice.name!r}; choose one of HOME_ACCENTS or NEW_ACCENTS"
                )
            for parameter, value in ((_RATE, voice.rate), (_PITCH, voice.pitch), (_RANGE, voice.pitch_range)):
                library.espeak_SetParameter(parameter, value, 0)
            spoken = text.encode()
            library.espeak_Synth(spoken, len(spoken) + 1, 0, 1, 0, _UTF8, None, None)
            library.espeak_Synchronize()
        finally:
            library.espeak_Terminate()
            _unload(library)
        return (np.concatenate(pieces) if pieces else np.zeros(0, np.int16)), rate


def _unload(library: ctypes.CDLL) -> None:
    """Drop the library so that the next load starts from its initial state."""
    import _ctypes

    _ctypes.dlclose(library._handle)


def _trim(samples: Samples) -> Samples:
    margin = SAMPLE_RATE // 20
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    start, stop = max(int(loud[0]) - margin, 0), int(loud[-1]) + margin
    kept = samples[start:stop]
    return (kept * np.float32(LEVEL / np.abs(kept).max())).astype(np.float32)
