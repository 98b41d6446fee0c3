"""Errors of speech handling. Each says what happened, to what, and what to do now."""

from __future__ import annotations


class SpeechError(Exception):
    """Any failure of audio, text or model handling."""


class AudioError(SpeechError):
    """Bytes are not a recording that the pipeline accepts: PCM WAV or FLAC, 16 kHz, mono, not empty."""


class UnreadableAudioError(AudioError):
    """The bytes are no audio file, are cut short, or hold samples that are no numbers."""


class WrongSampleRateError(AudioError):
    """The recording is not sampled at 16 kHz."""


class NotMonoError(AudioError):
    """The recording has more than one channel."""


class EmptyAudioError(AudioError):
    """The recording has no samples."""


class TokenizerError(SpeechError):
    """A text holds characters, or a file describes an alphabet, that the tokenizer cannot use."""


class ModelFileError(SpeechError):
    """A stored model (checkpoint folder, ONNX file or confidence model) is missing, damaged or of another shape."""


class PresetError(SpeechError):
    """No encoder preset has this name."""


class ArpaError(SpeechError):
    """A text is no ARPA model, or no n-gram model can be made from it."""


class DecoderError(SpeechError):
    """A decoder's configuration cannot be used, or its language model is missing or is not the one it names."""
