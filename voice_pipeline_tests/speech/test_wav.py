"""WAV without an audio library: the same samples as with one, and the same refusals."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from voice_pipeline.speech.audio import decode, encode_wav
from voice_pipeline.speech.errors import (
    AudioError,
    EmptyAudioError,
    NotMonoError,
    UnreadableAudioError,
    WrongSampleRateError,
)
from voice_pipeline.speech.wav import read_wav, write_wav

SOUNDS = arrays.arrays(np.float32, st.integers(1, 400), elements=st.floats(-1.5, 1.5, width=32))


@settings(deadline=None)
@given(SOUNDS)
def test_both_ways_of_writing_and_both_of_reading_agree_bit_for_bit(samples: np.ndarray) -> None:
    for written in (write_wav(samples), encode_wav(samples)):
        assert np.array_equal(read_wav(written), decode(written))
        assert read_wav(written).dtype == np.float32


def made(channels: int = 1, width: int = 2, rate: int = 16_000, frames: int = 100) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(bytes(channels * width * frames))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", UnreadableAudioError),
        (b"fLaC" + bytes(100), UnreadableAudioError),
        (made()[:-2], UnreadableAudioError),
        (made()[:-1], UnreadableAudioError),
        (made()[:20], UnreadableAudioError),
        (made(width=1), UnreadableAudioError),
        (made(width=3), UnreadableAudioError),
        (made(channels=2), NotMonoError),
        (made(rate=8_000), WrongSampleRateError),
        (made(frames=0), EmptyAudioError),
    ],
)
def test_what_is_no_recording_of_ours_is_refused(data: bytes, error: type[AudioError]) -> None:
    with pytest.raises(error):
        read_wav(data)


@settings(deadline=None)
@given(st.binary(max_size=80), st.integers(0, 60))
def test_damaged_files_end_in_an_audio_error_or_in_samples(noise: bytes, at: int) -> None:
    data = made()
    try:
        samples = read_wav(data[:at] + noise + data[at + len(noise) :])
    except AudioError:
        return
    assert samples.size
