"""One dictation: who answers it, the device or the edge, and what is told of that.

| flag    | person allows remote | first  | if that fails |
|---------|----------------------|--------|---------------|
| local   | no                   | device | –             |
| local   | yes                  | device | edge          |
| remote  | no                   | device | –             |
| remote  | yes                  | edge   | device        |

No flag sends a person's voice away against their will.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from voice_pipeline.device.errors import DeviceError, NoModelError
from voice_pipeline.schema.inference import InferenceMode, Transcription

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from voice_pipeline.device.recogniser import DeviceRecogniser
    from voice_pipeline.speech.recogniser import Recognition


@dataclass(frozen=True)
class Dictation:
    """A text and where it comes from.

    Attributes:
        latency_ms: from waveform to text as the person waited for it, the network included where there was one.
        answered: by the device itself (`local`) or by the edge (`remote`).
        fallback: the other one should have answered and could not; telemetry's `fallback`.
        recognition: the whole answer of a local model, None of a remote one.
    """

    text: str
    confidence: float
    latency_ms: float
    model_version: str
    bundle_digest: str
    answered: InferenceMode
    fallback: bool
    recognition: Recognition | None


Answer = Callable[[], Dictation]


def order(mode: InferenceMode, remote_allowed: bool) -> tuple[InferenceMode, ...]:
    """Who is asked, one after the other: the table above."""
    if not remote_allowed:
        return (InferenceMode.LOCAL,)
    other = InferenceMode.REMOTE if mode is InferenceMode.LOCAL else InferenceMode.LOCAL
    return (mode, other)


def first_answer(device_id: str, answers: list[Answer]) -> Dictation:
    """The first of `answers` that is one; any but the first is a fallback.

    Raises:
        NoModelError: none was; says why of each.
    """
    problems = []
    for number, answer in enumerate(answers):
        try:
            heard = answer()
        except DeviceError as error:
            problems.append(str(error))
            continue
        return replace(heard, fallback=number > 0)
    raise NoModelError(f"device {device_id} cannot transcribe: {'; '.join(problems)}")


def locally(recogniser: DeviceRecogniser, samples: NDArray[np.float32]) -> Dictation:
    """The installed model's answer. Raises `EmptyAudioError`."""
    heard = recogniser.transcribe(samples)
    return Dictation(
        text=heard.text,
        confidence=heard.confidence,
        latency_ms=heard.latency_ms,
        model_version=recogniser.model_version,
        bundle_digest=recogniser.bundle_digest,
        answered=InferenceMode.LOCAL,
        fallback=False,
        recognition=heard,
    )


def remotely(ask: Callable[[], Transcription]) -> Dictation:
    """The edge's answer, timed here. Raises `EdgeUnavailableError`."""
    started = time.perf_counter()
    heard = ask()
    return Dictation(
        text=heard.text,
        confidence=heard.confidence,
        latency_ms=(time.perf_counter() - started) * 1000,
        model_version=heard.model_version,
        bundle_digest=heard.bundle_digest,
        answered=InferenceMode.REMOTE,
        fallback=False,
        recognition=None,
    )
