"""PCM16 WAV with the standard library alone: what a device needs where no audio library is installed.

Promise: what `write_wav` or `audio.encode_wav` wrote, `read_wav` gives back bit for bit, as `audio.decode` does; any
other container, and one that is cut short, is refused.
"""

from __future__ import annotations

import io
import struct
import wave

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.speech.audio import FULL_SCALE, SAMPLE_RATE, Samples, pcm16
from voice_pipeline.speech.errors import (
    EmptyAudioError,
    NotMonoError,
    UnreadableAudioError,
    WrongSampleRateError,
)

PCM16_BYTES = 2
MALFORMED = (wave.Error, EOFError, RuntimeError, ValueError, ArithmeticError, struct.error)
"""What the `wave` module lets escape from made-up headers (Python 3.11, 2026-11)."""


def read_wav(data: bytes) -> Samples:
    """Samples of a WAV file's bytes: 16 bit PCM, 16 kHz, mono.

    Raises:
        UnreadableAudioError: no such file, or cut short.
        WrongSampleRateError: not 16 kHz.
        NotMonoError: more than one channel.
        EmptyAudioError: no samples.
    """
    try:
        with wave.open(io.BytesIO(data)) as file:
            channels, width, rate, frames = file.getparams()[:4]
            sound = file.readframes(frames)
    except MALFORMED as error:
        raise UnreadableAudioError(f"audio of {len(data)} bytes is no PCM WAV ({error}); record it again") from error
    if width != PCM16_BYTES:
        raise UnreadableAudioError(f"audio has {8 * width} bits a sample; send 16 bit PCM")
    if rate != SAMPLE_RATE:
        raise WrongSampleRateError(f"audio is sampled at {rate} Hz; resample it to {SAMPLE_RATE} Hz")
    if channels != 1:
        raise NotMonoError(f"audio has {channels} channels; mix it down to one")
    if len(sound) != frames * PCM16_BYTES:
        raise UnreadableAudioError(
            f"audio is cut short: its header names {frames} samples, {len(sound) // PCM16_BYTES} are there"
        )
    if not frames:
        raise EmptyAudioError("audio has no samples; record it again")
    return np.frombuffer(sound, dtype="<i2").astype(np.float32) / np.float32(FULL_SCALE)


def write_wav(samples: NDArray[np.floating]) -> bytes:
    """WAV file bytes of samples in [-1, 1]: 16 bit PCM, 16 kHz, mono."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(PCM16_BYTES)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(pcm16(samples))
    return buffer.getvalue()
