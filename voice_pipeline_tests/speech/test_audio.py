"""What was encoded comes back bit for bit; what is no 16 kHz mono recording is refused by name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from voice_pipeline.speech import audio
from voice_pipeline.speech.errors import (
    AudioError,
    EmptyAudioError,
    NotMonoError,
    UnreadableAudioError,
    WrongSampleRateError,
)


def tone(hertz: float, seconds: float = 1.0, level: float = 0.3) -> audio.Samples:
    times = np.arange(int(seconds * audio.SAMPLE_RATE)) / audio.SAMPLE_RATE
    return (level * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def power(samples: audio.Samples) -> float:
    return float(np.mean(samples.astype(np.float64) ** 2))


@given(arrays(np.int16, st.integers(1, 400)))
def test_flac_and_wav_bring_every_pcm16_sample_back(values: np.ndarray) -> None:
    samples = values.astype(np.float32) / audio.FULL_SCALE
    for encoded in (audio.encode_flac(samples), audio.encode_wav(samples)):
        np.testing.assert_array_equal(audio.decode(encoded), samples)
    assert audio.pcm16(samples) == values.astype("<i2").tobytes()


def test_samples_beyond_full_scale_are_clipped_not_wrapped() -> None:
    np.testing.assert_array_equal(audio.quantise(np.array([2.0, -2.0])), [32767, -32768])


@given(st.binary(max_size=300))
def test_bytes_that_are_no_audio_are_refused(data: bytes) -> None:
    with pytest.raises(AudioError):
        audio.decode(data)


@given(cut=st.integers(0, 1500))
def test_a_recording_cut_anywhere_is_refused(cut: int) -> None:
    whole = audio.encode_flac(tone(440, 0.2))
    with pytest.raises(AudioError):
        audio.decode(whole[: min(cut, len(whole) - 200)])


@pytest.mark.parametrize(
    ("shape", "rate", "error"),
    [((1600, 2), 16_000, NotMonoError), ((1600,), 8_000, WrongSampleRateError), ((0,), 16_000, EmptyAudioError)],
)
def test_other_formats_are_refused_by_name(shape: tuple[int, ...], rate: int, error: type[AudioError]) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(shape, dtype=np.float32), rate, format="WAV")
    with pytest.raises(error):
        audio.decode(buffer.getvalue())


def test_samples_that_are_no_numbers_are_refused() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full(160, np.nan, dtype=np.float32), 16_000, format="WAV", subtype="FLOAT")
    with pytest.raises(UnreadableAudioError, match="finite"):
        audio.decode(buffer.getvalue())


def test_load_names_the_file_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "clip.flac"
    with pytest.raises(UnreadableAudioError, match=r"clip\.flac"):
        audio.load(path)
    path.write_bytes(b"no audio")
    with pytest.raises(UnreadableAudioError, match=r"clip\.flac"):
        audio.load(path)


@given(snr_db=st.floats(-5, 40), seed=st.integers(0, 99))
def test_mixing_sets_the_signal_to_noise_ratio(snr_db: float, seed: int) -> None:
    speech = tone(440, 0.5, level=0.1)
    noise = np.random.default_rng(seed).normal(0, 0.02, 3000).astype(np.float32)
    mixed = audio.mix(speech, noise, snr_db)
    scale = float(mixed @ speech) / float(speech @ speech)  # at most 1: the sum may have been scaled down
    assert np.abs(mixed).max() <= 1
    heard = 10 * np.log10(power(speech * scale) / power(mixed - scale * speech))
    assert heard == pytest.approx(snr_db, abs=0.5)


def test_silent_noise_changes_nothing() -> None:
    np.testing.assert_array_equal(audio.mix(tone(440), np.zeros(10, dtype=np.float32), 0), tone(440))


def test_resampling_keeps_pitch_and_duration() -> None:
    there = audio.resample(tone(440), 16_000, 22_050)
    back = audio.resample(there, 22_050, 16_000)
    assert there.size == 22_050
    np.testing.assert_allclose(back[500:15_500], tone(440)[500:15_500], atol=5e-3)


def test_a_telephone_band_keeps_the_middle_and_loses_both_ends() -> None:
    for hertz, lost in ((60, True), (1000, False), (6000, True)):
        kept = power(audio.band_limit(tone(hertz), 300, 3400)) / power(tone(hertz))
        assert (kept < 0.02) if lost else (kept > 0.9)
