"""Measures follow what they are named for, and are finite for anything a microphone can give."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from voice_pipeline.speech.audio import SAMPLE_RATE, band_limit, decode, encode_flac, encode_wav, mix
from voice_pipeline.speech.measures import AcousticMeasures, measure, speaking_rate
from voice_pipeline_tests.speech.test_audio import tone


def bursts(seed: int = 0) -> np.ndarray:
    """Two seconds of speech-like noise bursts with pauses."""
    rng = np.random.default_rng(seed)
    envelope = (np.sin(2 * np.pi * 2 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE) > 0).astype(np.float32)
    return (0.1 * envelope * rng.standard_normal(2 * SAMPLE_RATE)).astype(np.float32)


@given(arrays(np.float32, st.integers(1, 2000), elements=st.floats(-1, 1, width=32)))
def test_every_recording_has_finite_measures_in_range(samples: np.ndarray) -> None:
    found = measure(samples)
    assert all(np.isfinite(value) for value in asdict(found).values())
    assert found.band_low + found.band_mid + found.band_high == pytest.approx(1)
    assert 0 <= found.clipping <= 1
    assert found.loudness_dbfs <= 0.01


@given(arrays(np.float32, st.integers(1, 2000), elements=st.floats(-1, 1, width=32)))
def test_a_device_measures_what_it_sends(samples: np.ndarray) -> None:
    assert measure(samples) == measure(decode(encode_flac(samples))) == measure(decode(encode_wav(samples)))


def test_a_louder_recording_is_louder_and_nothing_else() -> None:
    quiet, loud = measure(bursts() * np.float32(0.1)), measure(bursts())
    assert loud.loudness_dbfs - quiet.loudness_dbfs == pytest.approx(20, abs=0.1)
    for name in ("snr_db", "spectral_tilt", "band_low", "band_high"):
        assert getattr(loud, name) == pytest.approx(getattr(quiet, name), abs=0.3)


def test_more_noise_is_a_lower_snr() -> None:
    noise = np.random.default_rng(1).standard_normal(32_000).astype(np.float32) * np.float32(0.1)
    found = [measure(mix(bursts(), noise, snr)).snr_db for snr in (30, 20, 10, 0)]
    assert found == sorted(found, reverse=True)
    assert found[0] - found[-1] > 15


def test_a_tone_lies_in_its_band() -> None:
    shares = [measure(tone(hertz)) for hertz in (200, 1000, 4000)]
    assert [s.band_low > 0.9 for s in shares] == [True, False, False]
    assert [s.band_mid > 0.9 for s in shares] == [False, True, False]
    assert [s.band_high > 0.9 for s in shares] == [False, False, True]


def test_a_telephone_is_seen_in_the_bands() -> None:
    white = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    assert measure(band_limit(white, 300, 3400)).band_high < measure(white).band_high - 0.2


def test_falling_spectra_have_negative_tilt() -> None:
    brown = np.cumsum(np.random.default_rng(0).normal(0, 0.01, 32_000)).astype(np.float32)
    assert measure((brown - brown.mean()) / np.abs(brown).max()).spectral_tilt < -4


def test_full_scale_counts_as_clipped() -> None:
    assert measure(np.array([1, -1, 0, 0.5], dtype=np.float32)).clipping == 0.5


def test_silence_has_floor_values() -> None:
    found = measure(np.zeros(1600, dtype=np.float32))
    assert found.spectral_tilt == pytest.approx(0, abs=1e-9)
    assert found == AcousticMeasures(0.1, 0, -100, 0, found.spectral_tilt, 1 / 3, 1 / 3, 1 / 3)


def test_speaking_rate_counts_characters_without_spaces() -> None:
    assert speaking_rate("ab c", 1.5) == 2
    assert speaking_rate("ab", 0) == 0
