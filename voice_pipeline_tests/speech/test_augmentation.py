"""Augmentation is decided by its generator, keeps its lengths, and does to the sound what its name says."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.speech import augmentation as aug
from voice_pipeline.speech.audio import SAMPLE_RATE
from voice_pipeline_tests.speech.test_audio import power, tone
from voice_pipeline_tests.speech.test_measures import bursts


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


NOISES = [aug.coloured_noise(rng(1), 40_000), aug.coloured_noise(rng(2), 5_000)]
CASES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "coloured_noise": lambda r: aug.coloured_noise(r, 1000),
    "add_noise": lambda r: aug.add_noise(r, bursts(), NOISES),
    "room": lambda r: aug.reverberate(bursts(), aug.room_response(r)),
    "join": lambda r: aug.join(r, NOISES[0], NOISES[1], 800),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_seed_gives_the_same_sound_and_another_seed_another(name: str) -> None:
    made, again, other = CASES[name](rng(5)), CASES[name](rng(5)), CASES[name](rng(6))
    np.testing.assert_array_equal(made, again)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
    assert made.shape != other.shape or not np.array_equal(made, other)


@given(percent=st.integers(80, 125), n=st.integers(1, 3000))
def test_speed_scales_the_duration(percent: int, n: int) -> None:
    heard = aug.change_speed(np.full(n, 0.1, dtype=np.float32), percent)
    assert heard.dtype == np.float32
    assert heard.size == aug.length_at_speed(n, percent) == math.ceil(n * 100 / percent)


@pytest.mark.parametrize("percent", [p for p in aug.SPEEDS_PERCENT if p != 100])
def test_speed_moves_the_pitch(percent: int) -> None:
    heard = aug.change_speed(tone(1000), percent)
    spectrum = np.abs(np.fft.rfft(heard))
    assert spectrum.argmax() * SAMPLE_RATE / heard.size == pytest.approx(10 * percent, abs=3)


def test_a_join_holds_both_as_they_were_and_no_silence_deeper_than_theirs() -> None:
    first, second = bursts() + 0.01, bursts(1) + np.float32(0.02)
    joined = aug.join(rng(), first, second, 1600)
    np.testing.assert_array_equal(joined[: first.size], first)
    np.testing.assert_array_equal(joined[first.size + 1600 :], second)
    gap = joined[first.size : first.size + 1600]
    quietest = min(np.sqrt(power(hop)) for hop in first.reshape(-1, 160))
    assert np.sqrt(power(gap)) == pytest.approx(quietest, rel=0.1)


@given(first=st.integers(0, 300), second=st.integers(0, 300))
def test_a_splice_keeps_every_sample_away_from_its_seam(first: int, second: int) -> None:
    head, tail = np.full(first, 0.5, dtype=np.float32), np.full(second, -0.5, dtype=np.float32)
    whole = aug.splice(head, tail)
    assert whole.size == first + second
    fade = min(aug.FADE, first, second)
    np.testing.assert_array_equal(whole[: first - fade], head[fade:])
    np.testing.assert_array_equal(whole[first + fade :], tail[fade:])
    if fade > 1:
        assert whole[first - 1] == whole[first] == 0


def test_a_join_with_hardly_a_sample_is_no_error() -> None:
    one = np.full(1, 0.5, dtype=np.float32)
    assert aug.join(rng(), one, bursts(), 0).size == 1 + bursts().size


def test_noise_lies_under_speech_at_every_ratio_of_the_range() -> None:
    speech = (0.02 * rng(3).standard_normal(16_000)).astype(np.float32)
    heard = [aug.add_noise(rng(seed), speech, NOISES[:1]) for seed in range(50)]
    ratios = [10 * np.log10(power(speech) / power(noisy - speech)) for noisy in heard]
    low, high = aug.SNR_RANGE_DB
    assert low - 0.1 <= min(ratios) < low + 5
    assert high - 5 < max(ratios) <= high + 0.1


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_coloured_noise_falls_with_its_exponent(exponent: float) -> None:
    spectrum = np.abs(np.fft.rfft(aug.coloured_noise(rng(), 160_000, exponent))) ** 2
    octaves = [spectrum[2**k * 1000 : 2 ** (k + 1) * 1000].mean() for k in (1, 5)]
    assert np.log2(octaves[0] / octaves[1]) / 4 == pytest.approx(exponent, abs=0.1)


def test_a_room_keeps_length_and_loudness() -> None:
    heard = aug.reverberate(bursts(), aug.room_response(rng()))
    assert heard.shape == bursts().shape
    assert power(heard) == pytest.approx(power(bursts()), rel=0.05)


def test_vocal_tracts_are_drawn_around_none_and_never_beyond_the_limit() -> None:
    one = rng(4)
    drawn = np.array([aug.vocal_tract(one, 50.0) for _ in range(2000)]) / 50.0 / aug.WARP_SHARES
    assert np.abs(drawn).max() == pytest.approx(aug.LARGEST_DRAW)
    assert np.abs(drawn.mean(axis=0)).max() < 0.1
    assert ((drawn.std(axis=0) > 0.8) & (drawn.std(axis=0) < 1.0)).all()
    assert aug.vocal_tract(rng(4), 50.0) == aug.vocal_tract(rng(4), 50.0) != aug.vocal_tract(rng(5), 50.0)


@given(frames=st.integers(1, 200), bins=st.integers(0, 15), width=st.integers(0, 60), seed=st.integers(0, 50))
def test_masks_stay_within_their_limits(frames: int, bins: int, width: int, seed: int) -> None:
    features = np.ones((frames, 80), dtype=np.float32)
    aug.mask_features(rng(seed), features, bins, width)
    assert (features == 0).all(axis=0).sum() <= bins
    assert (features == 0).all(axis=1).sum() <= min(width, frames // 5)
    assert set(np.unique(features)) <= {0, 1}


def test_masks_reach_every_width_up_to_their_limits() -> None:
    bins, frames = set(), set()
    for seed in range(300):
        features = np.ones((100, 80), dtype=np.float32)
        aug.mask_features(rng(seed), features, 5, 7)
        bins.add(int((features == 0).all(axis=0).sum()))
        frames.add(int((features == 0).all(axis=1).sum()))
    assert bins == set(range(6))
    assert frames == set(range(8))
