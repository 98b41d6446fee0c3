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


def perturb_speed(rng: np.random.Generator, samples: Samples) -> Samples:
    """`change_speed` by a factor drawn from SPEED_RANGE."""
    return change_speed(samples, float(rng.uniform(*SPEED_RANGE)))


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


def room(rng: np.random.Generator, samples: Samples) -> Samples:
    """`samples` as a distant microphone hears them in a synthetic room; same length, same loudness."""
    from scipy.signal import fftconvolve

    decay = float(rng.uniform(*DECAY_RANGE_S))
    times = np.arange(int(decay * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(times.size) * np.exp(-6.9 * times / decay)
    response = 0.1 * tail / max(float(np.abs(tail).max()), 1e-9)
    response[0] = 1.0
    heard = fftconvolve(samples, response)[: samples.size]
    before, after = float(np.sqrt(np.mean(samples**2))), float(np.sqrt(np.mean(heard**2)))
    return np.clip(heard * (before / max(after, 1e-9)), -1.0, 1.0).astype(np.float32)


def join(rng: np.random.Generator, first: Samples, second: Samples) -> Samples:
    """One recording of both, the second after a drawn gap of near silence."""
    gap = np.zeros(int(rng.uniform(*GAP_RANGE_S) * SAMPLE_RATE), dtype=np.float32)
    return np.concatenate([first, gap, second])


def mask_features(
    rng: np.random.Generator,
    features_TM: NDArray[np.float32],
    frequency_bins: int,
    time_frames: int,  # noqa: N803
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
