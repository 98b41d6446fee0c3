"""Augmentation is decided by its generator, and the trainer's mel-power forms do what their waveform forms do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.speech import augmentation as aug
from voice_pipeline.speech.audio import mix
from voice_pipeline.speech.frontend import mel_power
from voice_pipeline_tests.speech.test_audio import power, tone
from voice_pipeline_tests.speech.test_measures import bursts


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


NOISES = [aug.coloured_noise(rng(1), 40_000), aug.coloured_noise(rng(2), 5_000)]
MEL = mel_power(bursts(), 80)
CASES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "coloured_noise": lambda r: aug.coloured_noise(r, 1000),
    "add_noise": lambda r: aug.add_noise(r, bursts(), NOISES),
    "room": lambda r: aug.reverberate(bursts(), aug.room_response(r)),
    "join": lambda r: aug.join(r, bursts(), bursts(1)),
    "add_noise_power": lambda r: aug.add_noise_power(r, MEL, [mel_power(n, 80) for n in NOISES]),
    "join_power": lambda r: aug.join_power(MEL, MEL, int(r.integers(5, 30))),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_seed_gives_the_same_sound_and_another_seed_another(name: str) -> None:
    made, again, other = CASES[name](rng(5)), CASES[name](rng(5)), CASES[name](rng(6))
    np.testing.assert_array_equal(made, again)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
    assert made.shape != other.shape or not np.array_equal(made, other)


@given(factor=st.floats(0.8, 1.25), n=st.integers(1, 3000))
def test_speed_scales_the_duration(factor: float, n: int) -> None:
    assert aug.change_speed(np.ones(n, dtype=np.float32), factor).size == max(1, round(n / factor))
    mel = np.ones((n, 4), dtype=np.float32)
    np.testing.assert_allclose(aug.stretch(mel, factor), np.ones((max(1, round(n / factor)), 4)), rtol=1e-5)


def test_speed_moves_the_pitch_in_both_forms() -> None:
    def peak(mel: np.ndarray) -> int:
        return int(mel.mean(axis=0).argmax())

    plain = mel_power(tone(1000), 80)
    for factor in (0.88, 1.12):
        played = peak(mel_power(aug.change_speed(tone(1000), factor), 80))
        assert abs(peak(aug.shift_frequencies(plain, factor)) - played) <= 1
        assert (played > peak(plain)) == (factor > 1)


def test_noise_in_mel_power_sounds_like_noise_in_the_waveform() -> None:
    speech, noise = bursts(), aug.coloured_noise(rng(3), 32_000, exponent=0.0)
    gain = power(speech) / power(noise) / 10
    in_waveform, in_power = mel_power(mix(speech, noise, 10), 80), mel_power(speech, 80) + gain * mel_power(noise, 80)
    levels = np.log(in_waveform.mean(axis=0) / in_power.mean(axis=0))
    assert np.abs(levels - levels.mean()).mean() < 0.15  # mix may scale the whole; its shape must stay


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_coloured_noise_falls_with_its_exponent(exponent: float) -> None:
    spectrum = np.abs(np.fft.rfft(aug.coloured_noise(rng(), 160_000, exponent))) ** 2
    octaves = [spectrum[2**k * 1000 : 2 ** (k + 1) * 1000].mean() for k in (1, 5)]
    assert np.log2(octaves[0] / octaves[1]) / 4 == pytest.approx(exponent, abs=0.1)


def test_a_room_keeps_length_and_loudness() -> None:
    heard = aug.reverberate(bursts(), aug.room_response(rng()))
    assert heard.shape == bursts().shape
    assert power(heard) == pytest.approx(power(bursts()), rel=0.05)


@given(frames=st.integers(1, 200), bins=st.integers(0, 15), width=st.integers(0, 60), seed=st.integers(0, 50))
def test_masks_stay_within_their_limits(frames: int, bins: int, width: int, seed: int) -> None:
    features = np.ones((frames, 80), dtype=np.float32)
    aug.mask_features(rng(seed), features, bins, width)
    assert (features == 0).all(axis=0).sum() <= bins
    assert (features == 0).all(axis=1).sum() <= min(width, frames // 5)
    assert set(np.unique(features)) <= {0, 1}
