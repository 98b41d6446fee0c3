"""The same clip is always heard in the same noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_pipeline.evaluation.errors import UnknownConditionError
from voice_pipeline.evaluation.noises import Noise, load_noises, noise_bank, noise_stretch, pink_noise
from voice_pipeline.evaluation.suites import length_slice, played, snr_of
from voice_pipeline.speech.audio import encode_flac
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import noises

BANK = [Noise("n1", np.linspace(-1, 1, 700, dtype=np.float32)), Noise("n2", np.ones(50, np.float32))]


def add_noise(store: Store, noise_id: str, kind: str = "noise") -> None:
    data = encode_flac(pink_noise(1, seconds=0.5))
    row = {"noise_id": noise_id, "kind": kind, "category": "cafe", "licence": "CC0", "duration_s": 0.5}
    row |= {"blob_key": f"noises/{noise_id}", "sha256": store.blobs.put(f"noises/{noise_id}", data)}
    with store.database.write() as connection:
        connection.execute(noises.insert(), row)


@given(st.integers(1, 3000), st.integers(0, 9), st.text(max_size=5))
def test_a_stretch_depends_on_seed_clip_and_condition_alone(length: int, seed: int, clip_id: str) -> None:
    one = noise_stretch(BANK, length, seed, clip_id, "noise_10db")
    assert one.shape == (length,)
    np.testing.assert_array_equal(one, noise_stretch(BANK, length, seed, clip_id, "noise_10db"))


def test_clips_differ_in_their_noise() -> None:
    stretches = {noise_stretch(BANK[:1], 20, 7, f"clip{n}", "noise_10db").tobytes() for n in range(20)}
    assert len(stretches) > 10


def test_pink_noise_stands_in_where_none_was_imported(store: Store) -> None:
    bank = noise_bank(store)
    assert [noise.noise_id for noise in bank] == ["pink-0", "pink-1", "pink-2", "pink-3"]
    assert all(np.abs(samples).max() == pytest.approx(0.5) for samples in load_noises(store))


def test_pink_noise_falls_with_frequency() -> None:
    power = np.abs(np.fft.rfft(pink_noise(0, 10))) ** 2
    frequency = np.fft.rfftfreq(160_000, 1 / 16_000)

    def band(low: float, high: float) -> float:
        return float(power[(frequency >= low) & (frequency < high)].sum())

    assert band(200, 400) == pytest.approx(band(1600, 3200), rel=0.2)  # equal power an octave


def test_a_suite_hears_only_the_noises_it_was_frozen_with(store: Store) -> None:
    add_noise(store, "n1")
    add_noise(store, "n2")
    add_noise(store, "room", kind="rir")
    assert [noise.noise_id for noise in noise_bank(store)] == ["n1", "n2"]
    assert [noise.noise_id for noise in noise_bank(store, ("n2",))] == ["n2"]
    assert noise_bank(store, ())[0].noise_id == "pink-0"


def test_conditions_are_read_or_refused() -> None:
    assert snr_of("clean") is None
    assert snr_of("noise_-5db") == -5
    with pytest.raises(UnknownConditionError, match="underwater"):
        snr_of("underwater")


def test_noise_is_mixed_at_the_named_ratio() -> None:
    speech = np.random.default_rng(0).normal(0, 0.05, 8000).astype(np.float32)
    noisy = played(speech, [Noise("p", pink_noise(0, 2))], 10.0, 7, "clip", "noise_10db")
    ratio = 10 * np.log10(np.mean(speech**2) / np.mean((noisy - speech) ** 2))
    assert ratio == pytest.approx(10, abs=0.2)
    assert played(speech, [], None, 7, "clip", "clean") is speech


@pytest.mark.parametrize(("seconds", "name"), [(1.99, "short"), (2.0, "medium"), (4.99, "medium"), (5.0, "long")])
def test_length_slices(seconds: float, name: str) -> None:
    assert length_slice(seconds) == f"length:{name}"
