"""Reading, writing and shaping 16 kHz mono recordings.

Promise: what `encode_flac` or `encode_wav` wrote, `decode` gives back bit for bit (samples lie on the PCM16 grid,
1/32768 apart), and bytes that are no such recording, or only the beginning of one, end in an `AudioError`, never in
noise or in a shorter clip. Mixing sets the signal-to-noise ratio by mean power, as in the REVERB and CHiME corpora.
"""

from __future__ import annotations

import io
import math
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.speech.errors import (
    EmptyAudioError,
    NotMonoError,
    UnreadableAudioError,
    WrongSampleRateError,
)

SAMPLE_RATE = 16_000
"""Samples a second everywhere in this project."""

FULL_SCALE = 32_768
SILENCE_POWER = 1e-10

STREAMED_FROM = 0x7FFFF000
"""A WAV whose length was not known when its header was written claims at least this (SoX just this, FFmpeg 2^32-1)."""

Samples = NDArray[np.float32]
"""Mono 16 kHz float32 in [-1, 1], shape (N,)."""


def decode(data: bytes) -> Samples:
    """Samples of a WAV or FLAC (or other libsndfile) recording.

    A WAV written as a stream names no length of its sound and is taken as far as it goes; one that names a length of 0
    is empty, whatever follows.

    Raises:
        UnreadableAudioError: no audio file, cut short, or not finite.
        WrongSampleRateError: not 16 kHz.
        NotMonoError: more than one channel.
        EmptyAudioError: no samples.
    """
    import soundfile

    _refuse_cut_wav(data)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, channels, expected = file.samplerate, file.channels, file.frames
            if rate != SAMPLE_RATE:
                raise WrongSampleRateError(f"audio is sampled at {rate} Hz; resample it to {SAMPLE_RATE} Hz")
            if channels != 1:
                raise NotMonoError(f"audio has {channels} channels; mix it down to one")
            if expected == 0:
                raise EmptyAudioError("audio has no samples; record it again")
            samples = _read(file)
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as error:
        raise UnreadableAudioError(f"audio of {len(data)} bytes cannot be read: {error}; send WAV or FLAC") from error
    if not np.isfinite(samples).all():
        raise UnreadableAudioError("audio holds samples that are not finite; record it again")
    return np.clip(samples, -1.0, 1.0)


def _read(file: Any) -> Samples:
    """All samples that the header of an opened file names. Raises `UnreadableAudioError` where they are not there."""
    import soundfile

    try:
        samples: Samples = file.read(dtype="float32")
    except soundfile.SoundFileError as error:
        raise _cut_short(file.frames, file.tell()) from error
    if samples.size < file.frames:
        raise _cut_short(file.frames, samples.size)
    return samples


def _cut_short(named: int, there: int) -> UnreadableAudioError:
    told = f"its header names {named} samples, {there} can be read"
    return UnreadableAudioError(f"audio is cut short or damaged: {told}; send it again")


def _refuse_cut_wav(data: bytes) -> None:
    """Hold the length that a RIFF file's data chunk claims against the bytes behind it: libsndfile reads what is there
    and says nothing. A RIFF chunk is an id, a little-endian length and as many bytes, padded to even (Multimedia
    Programming Interface 1.0, 1991).

    Raises:
        UnreadableAudioError: fewer bytes of sound are there than the header names.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return
    start = 12
    while start + 8 <= len(data):
        name, claimed = struct.unpack_from("<4sI", data, start)
        start += 8
        if name == b"data":
            there = len(data) - start
            if there < claimed < STREAMED_FROM:
                raise UnreadableAudioError(
                    f"audio is cut short: its header names {claimed} bytes of sound, {there} are there; send it again"
                )
            return
        start += claimed + claimed % 2


def load(path: Path) -> Samples:
    """`decode` of a file.

    Raises:
        AudioError: as `decode`; the message names the file. A missing file is an `UnreadableAudioError`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableAudioError(f"audio file {path} cannot be read: {error.strerror}") from error
    try:
        return decode(data)
    except (UnreadableAudioError, WrongSampleRateError, NotMonoError, EmptyAudioError) as error:
        raise type(error)(f"{path}: {error}") from error


def quantise(samples: NDArray[np.floating]) -> NDArray[np.int16]:
    """PCM16 values of samples in [-1, 1]; what lies outside is clipped."""
    scaled = np.rint(np.asarray(samples, dtype=np.float64) * FULL_SCALE)
    return np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype("<i2")


def pcm16(samples: NDArray[np.floating]) -> bytes:
    """Little-endian PCM16 bytes without a header; what a content digest is taken over."""
    return quantise(samples).tobytes()


def encode_flac(samples: NDArray[np.floating]) -> bytes:
    """FLAC file bytes, 16 bit, 16 kHz mono."""
    return _encode(samples, "FLAC")


def encode_wav(samples: NDArray[np.floating]) -> bytes:
    """WAV file bytes, 16 bit PCM, 16 kHz mono."""
    return _encode(samples, "WAV")


def _encode(samples: NDArray[np.floating], container: str) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, quantise(samples), SAMPLE_RATE, format=container, subtype="PCM_16")
    return buffer.getvalue()


def mix(samples: Samples, noise: Samples, snr_db: float) -> Samples:
    """`samples` with `noise` under them at `snr_db` (ratio of mean powers over the whole clip).

    Noise shorter than the clip is repeated, longer noise is cut at the end; choose the offset before the call.
    If the sum would leave [-1, 1] it is scaled down as a whole, which keeps the ratio. Silent noise changes nothing.
    """
    fitted = np.resize(noise, samples.shape)
    speech_power = float(np.mean(np.square(samples, dtype=np.float64)))
    noise_power = float(np.mean(np.square(fitted, dtype=np.float64)))
    if noise_power < SILENCE_POWER:
        return samples.astype(np.float32, copy=True)
    gain = math.sqrt(max(speech_power, SILENCE_POWER) / noise_power / 10 ** (snr_db / 10))
    mixed = samples + np.float32(gain) * fitted
    peak = float(np.abs(mixed).max())
    return (mixed / peak if peak > 1 else mixed).astype(np.float32)


def resample(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """Band-limited polyphase resampling; the result has `ceil(N * to_hz / from_hz)` samples."""
    if from_hz == to_hz:
        return samples
    from scipy.signal import resample_poly

    common = math.gcd(from_hz, to_hz)
    up, down = to_hz // common, from_hz // common
    result = resample_poly(samples, up, down, window=_low_pass(max(up, down)))
    return np.clip(result, -1.0, 1.0).astype(np.float32, copy=False)


@lru_cache(maxsize=32)
def _low_pass(rate: int) -> Samples:
    """SciPy's own filter for resampling by `rate`, made once: making it took as long as a second of sound takes."""
    from scipy.signal import firwin

    return np.asarray(firwin(20 * rate + 1, 1 / rate, window=("kaiser", 5.0)), dtype=np.float32)


def band_limit(samples: Samples, low_hz: float, high_hz: float) -> Samples:
    """What a channel of `low_hz`..`high_hz` leaves over (4th-order Butterworth, zero phase): 300-3400 Hz is a
    telephone.
    """
    from scipy.signal import butter, sosfiltfilt

    sections = butter(4, (low_hz, high_hz), btype="bandpass", fs=SAMPLE_RATE, output="sos")
    padding = min(27, samples.size - 1)
    return np.clip(sosfiltfilt(sections, samples, padlen=padding), -1.0, 1.0).astype(np.float32)
