"""How near an int8 network comes to the float one it was made from, on the same clips."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from voice_pipeline.schema.bundle import Parity

if TYPE_CHECKING:
    from voice_pipeline.speech.audio import Samples
    from voice_pipeline.speech.tokenizer import CharTokenizer


def parity(floating: Path, int8: Path, tokenizer: CharTokenizer, clips: Iterable[Samples]) -> Parity:
    """Compare two ONNX files on float32 waveforms (N,) at 16 kHz, at least one."""
    from voice_pipeline.speech.decoder import greedily
    from voice_pipeline.speech.recogniser import OnnxRecogniser, padded

    engines = [OnnxRecogniser(path, tokenizer) for path in (floating, int8)]
    decode = greedily(tokenizer)
    alike, apart, texts = [], [], []
    for samples in clips:
        expected, found = (engine.log_probs(padded(samples)) for engine in engines)
        best = expected.argmax(axis=1)
        frames = np.arange(len(best))
        alike.append(best == found.argmax(axis=1))
        apart.append(np.abs(expected[frames, best] - found[frames, best]))
        texts.append(decode(expected, 1.0).text == decode(found, 1.0).text)
    return Parity(
        clips=len(texts),
        frames_alike=float(np.concatenate(alike).mean()),
        log_probs_mean_difference=float(np.concatenate(apart).mean()),
        texts_alike=float(np.mean(texts)),
    )
