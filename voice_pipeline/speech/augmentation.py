"""Ways to make more speech out of speech, each driven by a `numpy.random.Generator` so that a seed decides everything.

Speed perturbation after Ko et al. (2015), masks after SpecAugment (Park et al., 2019), rooms as exponentially decaying
noise (Habets, 2006: the tail of a diffuse field), joins of two utterances against learning whole letter sequences by
heart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.speech.audio import SAMPLE_RATE, Samples, mix

SPEED_RANGE = (0.88, 1.12)
SNR_RANGE_DB = (3.0, 25.0)
GAP_RANGE_S = (0.05, 0.35)
DECAY_RANGE_S = (0.1, 0.5)
COLOUR_RANGE = (0.0, 2.0)
LONGEST_RESPONSE_S = 0.6

MelPower = NDArray[np.float32]
"""(T, M) power in mel bands, what `frontend.LogMel.power` gives."""


def coloured_noise(rng: np.random.Generator, n: int, exponent: float | None = None) -> Samples:
    """`n` ≥ 1 samples of noise with power ∝ 1 / f^exponent (0 white, 1 pink, 2 brown), peak 0.5.

    Args:
        exponent: None draws it from COLOUR_RANGE.
    """
    exponent = float(rng.uniform(*COLOUR_RANGE)) if exponent is None else exponent
    spectrum = np.fft.rfft(rng.standard_normal(n))
    frequencies = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
    spectrum *= np.maximum(frequencies, 50.0) ** (-exponent / 2)
    noise = np.fft.irfft(spectrum, n)
    return (0.5 * noise / max(float(np.abs(noise).max()), 1e-9)).astype(np.float32)


def change_speed(samples: Samples, factor: float) -> Samples:
    """`samples` played `factor` times as fast (pitch moves along), by linear interpolation; ≥ 1 sample stays."""
    count = max(1, round(samples.size / factor))
    return np.interp(np.arange(count) * factor, np.arange(samples.size), samples).astype(np.float32)


def excerpt(rng: np.random.Generator, noise: Samples, n: int) -> Samples:
    """`n` samples of `noise` from a random place; repeats where the noise is shorter."""
    if noise.size <= n:
        return np.resize(np.roll(noise, -int(rng.integers(noise.size))), n)
    start = int(rng.integers(noise.size - n))
    return noise[start : start + n]


def add_noise(rng: np.random.Generator, samples: Samples, noises: Sequence[Samples]) -> Samples:
    """`samples` under one of `noises`, both drawn: which, where from, and an SNR from SNR_RANGE_DB."""
    noise = noises[int(rng.integers(len(noises)))]
    return mix(samples, excerpt(rng, noise, samples.size), float(rng.uniform(*SNR_RANGE_DB)))


def room_response(rng: np.random.Generator) -> Samples:
    """The impulse response of a synthetic room: the direct sound, then a tail that falls by 60 dB in a drawn time."""
    decay = float(rng.uniform(*DECAY_RANGE_S))
    times = np.arange(int(decay * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(times.size) * np.exp(-6.9 * times / decay)
    response = 0.1 * tail / max(float(np.abs(tail).max()), 1e-9)
    response[0] = 1.0
    return response.astype(np.float32)


def reverberate(samples: Samples, response: Samples) -> Samples:
    """`samples` as heard in the room of `response`, whose strongest sample is the direct sound; same length, same
    loudness. Only the first LONGEST_RESPONSE_S of the response are used.
    """
    from scipy.signal import oaconvolve

    direct = int(np.abs(response).argmax())
    kept = response[direct : direct + int(LONGEST_RESPONSE_S * SAMPLE_RATE)]
    heard = oaconvolve(samples, kept)[: samples.size]
    before, after = float(np.sqrt(np.mean(samples**2))), float(np.sqrt(np.mean(heard**2)))
    return np.clip(heard * (before / max(after, 1e-9)), -1.0, 1.0).astype(np.float32)


def join(rng: np.random.Generator, first: Samples, second: Samples) -> Samples:
    """One recording of both, the second after a drawn gap of near silence."""
    gap = np.zeros(int(rng.uniform(*GAP_RANGE_S) * SAMPLE_RATE), dtype=np.float32)
    return np.concatenate([first, gap, second])


def stretched(frames: int, factor: float) -> int:
    """How many frames `stretch` makes of `frames`."""
    return max(1, round(frames / factor))


def stretch(power_TM: MelPower, factor: float) -> MelPower:  # noqa: N803
    """Mel power at `factor` times the tempo, (round(T / factor), M); pitch stays."""
    frames = len(power_TM)
    positions = np.minimum(np.arange(stretched(frames, factor)) * factor, frames - 1)
    before = positions.astype(np.int64)
    share = (positions - before).astype(np.float32)[:, None]
    after = np.minimum(before + 1, frames - 1)
    return power_TM[before] * (1 - share) + power_TM[after] * share


def shift_frequencies(power_TM: MelPower, factor: float) -> MelPower:  # noqa: N803
    """Mel power with every frequency multiplied by `factor`; a shorter or longer vocal tract."""
    below, share = _warp(power_TM.shape[1], factor)
    return power_TM.take(below, axis=1) * (1 - share) + power_TM.take(below + 1, axis=1) * share


def _warp(bins: int, factor: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each bin: the bin below its frequency divided by `factor`, and the share of the bin above that one."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    centres = 700 * (10 ** ((np.arange(bins) + 1) / (bins + 1) * top / 2595) - 1)
    sources = 2595 * np.log10(1 + centres / factor / 700) / top * (bins + 1) - 1
    sources = np.clip(sources, 0, bins - 1)
    below = np.minimum(sources.astype(np.int64), bins - 2)
    return below, (sources - below).astype(np.float32)


def add_noise_power(rng: np.random.Generator, power_TM: MelPower, noises: Sequence[MelPower]) -> MelPower:  # noqa: N803
    """What `add_noise` does, on mel power; the SNR is that of the mel-weighted powers."""
    noise = noises[int(rng.integers(len(noises)))]
    start = int(rng.integers(len(noise)))
    fitted = noise[(start + np.arange(len(power_TM))) % len(noise)]
    gain = float(power_TM.mean()) / max(float(fitted.mean()), 1e-9) / 10 ** (float(rng.uniform(*SNR_RANGE_DB)) / 10)
    return power_TM + np.float32(gain) * fitted


def join_power(first_TM: MelPower, second_TM: MelPower, gap: int) -> MelPower:  # noqa: N803
    """One recording of both; `gap` frames between them are the first one's quietest frame."""
    quiet = first_TM[int(first_TM.sum(axis=1).argmin())]
    return np.concatenate([first_TM, np.tile(quiet, (gap, 1)), second_TM])


def mask_features(
    rng: np.random.Generator,
    features_TM: NDArray[np.float32],  # noqa: N803
    frequency_bins: int,
    time_frames: int,
) -> None:
    """Set up to `frequency_bins` neighbouring bins and up to `time_frames` frames (never more than a fifth) to 0, in
    place.
    """
    frames, bins = features_TM.shape
    width = int(rng.integers(0, min(frequency_bins, bins) + 1))
    low = int(rng.integers(0, bins - width + 1))
    features_TM[:, low : low + width] = 0
    length = int(rng.integers(0, min(time_frames, frames // 5) + 1))
    start = int(rng.integers(0, frames - length + 1))
    features_TM[start : start + length] = 0
