"""What was encoded comes back bit for bit; what is no 16 kHz mono recording is refused by name."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
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


@pytest.mark.parametrize("encode", [audio.encode_flac, audio.encode_wav])
@given(cut=st.integers(0, 6_000), after=st.sampled_from(["", "LIST"]))
def test_not_a_byte_of_sound_may_be_missing(encode: Callable[[audio.Samples], bytes], cut: int, after: str) -> None:
    whole = encode(tone(440, 0.2))
    if after and whole[:4] == b"RIFF":  # other chunks may come before the sound
        whole = whole[:12] + b"LIST" + struct.pack("<I", 3) + b"abc\0" + whole[12:]
    assert audio.decode(whole).size == 3_200
    with pytest.raises(AudioError):
        audio.decode(whole[: min(cut, len(whole) - 1)])


def test_a_wav_cut_short_is_told_with_both_lengths() -> None:
    whole = audio.encode_wav(tone(440, 1.0))
    with pytest.raises(UnreadableAudioError, match="cut short: its header names 32000 bytes of sound, 16000 are there"):
        audio.decode(whole[: 44 + 16_000])


def test_a_flac_cut_short_is_told_with_both_lengths() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    whole = audio.encode_flac(noise)
    with pytest.raises(UnreadableAudioError, match=r"its header names 16000 samples, \d+ can be read"):
        audio.decode(whole[:-1])


def test_a_chunk_behind_the_sound_may_be_cut_or_miscounted() -> None:
    whole = audio.encode_wav(tone(440, 0.1))
    assert audio.decode(whole + b"LIST" + struct.pack("<I", 400) + b"art").size == 1_600
    assert audio.decode(whole[:4] + struct.pack("<I", len(whole)) + whole[8:]).size == 1_600


@pytest.mark.parametrize("claimed", [0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_streamed_wav_names_no_length_and_is_taken_as_far_as_it_goes(claimed: int) -> None:
    whole = bytearray(audio.encode_wav(tone(440, 0.1)))
    whole[4:8] = whole[40:44] = struct.pack("<I", claimed)
    np.testing.assert_array_equal(audio.decode(bytes(whole)), audio.decode(audio.encode_wav(tone(440, 0.1))))


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
