"""Scalar acoustic measures of a clip: what devices report instead of audio and what drift is measured on.

Only numpy, so that a device computes the same figures as the pipeline. The signal-to-noise ratio is blind: frame powers
(25 ms, hop 10 ms) below their 10th percentile are taken for noise, the mean of those above their median for speech plus
noise, after the percentile estimators of Martin (1994) and WADA (Kim and Stern, 2008).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.speech.audio import FULL_SCALE, SAMPLE_RATE, Samples, quantise

FRAME = 400
HOP = 160
FFT = 512
FLOOR = 1e-10
SNR_RANGE_DB = (-10.0, 60.0)
CLIPPED = 0.998
TILT_RANGE_HZ = (100.0, 7000.0)
BAND_EDGES_HZ = (500.0, 2000.0)


@dataclass(frozen=True)
class AcousticMeasures:
    """`duration_s` in seconds; `snr_db` in [-10, 60]; `loudness_dbfs` RMS in dB of full scale, ≥ -100; `clipping` share
    of samples at full scale; `spectral_tilt` slope of the mean power spectrum between 100 and 7000 Hz in dB an octave;
    `band_low` (< 500 Hz), `band_mid` (500-2000 Hz), `band_high` (> 2000 Hz) shares of the energy, which sum to 1.
    """

    duration_s: float
    snr_db: float
    loudness_dbfs: float
    clipping: float
    spectral_tilt: float
    band_low: float
    band_mid: float
    band_high: float


def measure(samples: Samples) -> AcousticMeasures:
    """Measures of a clip of any length ≥ 1 sample; all finite, also for silence.

    Samples count as the PCM16 values that they are sent as: a device measures the very numbers that the pipeline does.
    """
    samples = quantise(samples).astype(np.float32) / np.float32(FULL_SCALE)
    spectrum = _power_spectra(samples)
    frame_powers = spectrum.mean(axis=1)
    mean_spectrum = spectrum.mean(axis=0)
    low, mid, high = _band_shares(mean_spectrum)
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return AcousticMeasures(
        duration_s=samples.size / SAMPLE_RATE,
        snr_db=_snr_db(frame_powers),
        loudness_dbfs=10 * float(np.log10(max(power, FLOOR))),
        clipping=float(np.mean(np.abs(samples) >= CLIPPED)),
        spectral_tilt=_tilt(mean_spectrum),
        band_low=low,
        band_mid=mid,
        band_high=high,
    )


def speaking_rate(text: str, duration_s: float) -> float:
    """Characters (spaces left out) a second; 0 for no text or no time."""
    return len(text.replace(" ", "")) / duration_s if duration_s > 0 else 0.0


def _power_spectra(samples: Samples) -> NDArray[np.float64]:
    """(T, FFT // 2 + 1) Hann-windowed power spectra; at least one frame."""
    padded = np.pad(samples, (0, max(0, FRAME - samples.size)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    spectra = np.fft.rfft(frames * np.hanning(FRAME).astype(np.float32), n=FFT, axis=1)
    return np.square(np.abs(spectra), dtype=np.float64)


def _snr_db(frame_powers: NDArray[np.float64]) -> float:
    noise_limit, speech_limit = np.percentile(frame_powers, (10, 50))
    noise = max(float(frame_powers[frame_powers <= noise_limit].mean()), FLOOR)
    speech = max(float(frame_powers[frame_powers >= speech_limit].mean()) - noise, FLOOR)
    return float(np.clip(10 * np.log10(speech / noise), *SNR_RANGE_DB))


def _band_shares(spectrum: NDArray[np.float64]) -> tuple[float, float, float]:
    """Energy shares below, between and above the band edges; equal thirds of nothing for silence."""
    total = float(spectrum.sum())
    if total < FLOOR:
        return 1 / 3, 1 / 3, 1 / 3
    frequencies = np.fft.rfftfreq(FFT, 1 / SAMPLE_RATE)
    low = float(spectrum[frequencies < BAND_EDGES_HZ[0]].sum()) / total
    high = float(spectrum[frequencies > BAND_EDGES_HZ[1]].sum()) / total
    return low, 1 - low - high, high


def _tilt(spectrum: NDArray[np.float64]) -> float:
    frequencies = np.fft.rfftfreq(FFT, 1 / SAMPLE_RATE)
    used = (frequencies >= TILT_RANGE_HZ[0]) & (frequencies <= TILT_RANGE_HZ[1])
    octaves = np.log2(frequencies[used])
    level = 10 * np.log10(np.maximum(spectrum[used], FLOOR))
    weights = 1 / frequencies[used]  # equal weight an octave, not a hertz
    centre = np.average(octaves, weights=weights)
    spread = np.average((octaves - centre) ** 2, weights=weights)
    return float(np.average((octaves - centre) * level, weights=weights) / spread)
