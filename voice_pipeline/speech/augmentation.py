"""Ways to make more speech out of speech, each driven by a `numpy.random.Generator` so that a seed decides everything.

Speed perturbation after Ko et al. (2015), vocal tracts after Jaitly and Hinton (2013), masks after SpecAugment (Park et
al., 2019), rooms as exponentially decaying noise (Habets, 2006: the tail of a diffuse field), joins of two utterances
against learning whole letter sequences by heart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.speech.audio import SAMPLE_RATE, Samples, mix, resample
from voice_pipeline.speech.measures import HOP

if TYPE_CHECKING:
    from voice_pipeline.speech.frontend import Warp

SPEEDS_PERCENT = (85, 90, 95, 100, 105, 110, 115)
"""Few and with small fractions, so that resampling is cheap. Wide: speed also moves the formants, and a model of a few
dozen speakers hears a new one better for it.
"""
TEMPO_HOPS = (148, 152, 156, 160, 164, 168, 172)
"""Samples between two frames: what is said and how it sounds stay, its tempo changes."""
SNR_RANGE_DB = (3.0, 25.0)
GAP_RANGE_S = (0.05, 0.35)
DECAY_RANGE_S = (0.1, 0.5)
COLOUR_RANGE = (0.0, 2.0)
LONGEST_RESPONSE_S = 0.6
FADE = 80
WARP_SHARES = np.array([1.0, 2 / 3, 1 / 2])
"""Of the deviation, for the half waves that a warp of the mel axis is made of, slowest first."""
LARGEST_DRAW = 2.0
LARGEST_WARP_MEL = 100
"""Up to these, the warped axis ascends everywhere."""


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


def change_speed(samples: Samples, percent: int) -> Samples:
    """`samples` played at `percent` of their speed, `length_at_speed` samples; pitch moves along."""
    return resample(samples, percent, 100)


def length_at_speed(count: int, percent: int) -> int:
    """How many samples `change_speed` makes of `count`."""
    return -(-count * 100 // percent)


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


def vocal_tract(rng: np.random.Generator, deviation_mel: float) -> Warp:
    """A warp of the mel axis that moves every formant by its own amount: `deviation_mel` (at most LARGEST_WARP_MEL) is
    one standard deviation of the slowest half wave, and none is drawn beyond LARGEST_DRAW of them. Speed scales all
    formants alike, but people's mouths and throats differ in their proportions (Fant, 1975).
    """
    drawn = np.clip(rng.standard_normal(WARP_SHARES.size), -LARGEST_DRAW, LARGEST_DRAW)
    return tuple((deviation_mel * WARP_SHARES * drawn).tolist())


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


def join(rng: np.random.Generator, first: Samples, second: Samples, gap: int) -> Samples:
    """One recording of both; the `gap` samples between them are white noise as loud as the quietest 10 ms around it."""
    level = min(_quietest(first), _quietest(second))
    return np.concatenate([first, level * rng.standard_normal(gap, dtype=np.float32), second])


def splice(first: Samples, second: Samples) -> Samples:
    """`second` right behind `first`, both faded over FADE at the seam so that it does not click."""
    fade = np.linspace(0, 1, min(FADE, first.size, second.size), dtype=np.float32)
    joined = np.concatenate([first, second])
    joined[first.size - fade.size : first.size] *= fade[::-1]
    joined[first.size : first.size + fade.size] *= fade
    return joined


def _quietest(samples: Samples) -> np.float32:
    """Root mean square of the quietest HOP of `samples`; of all of them if they are fewer."""
    hops = samples[: samples.size // HOP * HOP].reshape(-1, HOP) if samples.size >= HOP else samples[None]
    return np.sqrt(np.square(hops).mean(axis=1).min())


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
