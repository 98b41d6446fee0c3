"""What may come in: pure rules on consent, size and audio.

A rule that is broken gives a `Refusal`, which becomes a quarantine entry: bad input is never dropped and never crashes.
Limits: PCM WAV or FLAC, 16 kHz mono, 0.1 to 30 s, 2 MB. No length from a header is trusted for an allocation.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from voice_pipeline.schema.clip import MAX_CLIP_BYTES, MAX_CLIP_SECONDS, CaptureEvent, QuarantineReason
from voice_pipeline.schema.consent import Scope
from voice_pipeline.speech import audio as speech_audio
from voice_pipeline.speech.errors import AudioError, EmptyAudioError, NotMonoError, WrongSampleRateError

MIN_CLIP_SECONDS = 0.1


@dataclass(frozen=True)
class Refusal:
    """Why an event's audio is not kept, or not catalogued."""

    reason: QuarantineReason
    detail: str


class RefusedAudioError(Exception):
    """Raised by `decode_clip`; carries the refusal."""

    def __init__(self, reason: QuarantineReason, detail: str) -> None:
        super().__init__(detail)
        self.refusal = Refusal(reason, detail)


def refusal_of(
    event: CaptureEvent, size: int, receipts: Mapping[str, Mapping[str, object]], erased: Collection[str]
) -> Refusal | None:
    """Why audio of `size` bytes may not be kept, or None.

    Args:
        receipts: recorded consents by id; the receipt recorded first is the one that counts.
        erased: tokens of erased subjects.
    """
    consent = event.consent
    recorded = receipts.get(consent.consent_id)
    if consent.subject_token in erased:
        return Refusal(QuarantineReason.NO_CONSENT, "its subject was erased")
    if recorded is not None and recorded["subject_token"] != consent.subject_token:
        return Refusal(QuarantineReason.SUBJECT_MISMATCH, f"consent {consent.consent_id} was given by another subject")
    if recorded is not None and recorded["revoked_at"]:
        return Refusal(QuarantineReason.NO_CONSENT, f"consent {consent.consent_id} was revoked")
    if recorded is not None and recorded["scopes"] != sorted(consent.scopes):
        return Refusal(
            QuarantineReason.NO_CONSENT, f"consent {consent.consent_id} names other scopes than its recorded receipt"
        )
    if Scope.TRANSCRIBE_REVIEW not in consent.scopes:
        return Refusal(QuarantineReason.NO_CONSENT, f"consent {consent.consent_id} does not let anyone listen")
    if size > MAX_CLIP_BYTES:
        return Refusal(QuarantineReason.TOO_LARGE, f"audio has {size} bytes, at most {MAX_CLIP_BYTES} are allowed")
    return None


def decode_clip(data: bytes) -> speech_audio.Samples:
    """Samples of a clip that keeps the limits.

    Raises:
        RefusedAudioError: says which limit it breaks.
    """
    _probe(data)
    try:
        samples = speech_audio.decode(data)
    except AudioError as error:
        raise RefusedAudioError(_reason(error), str(error)) from error
    seconds = samples.size / speech_audio.SAMPLE_RATE
    if seconds < MIN_CLIP_SECONDS:
        raise RefusedAudioError(QuarantineReason.EMPTY, f"audio lasts {seconds:.3f} s, less than {MIN_CLIP_SECONDS} s")
    if seconds > MAX_CLIP_SECONDS:
        raise RefusedAudioError(QuarantineReason.TOO_LONG, f"audio lasts {seconds:.1f} s, over {MAX_CLIP_SECONDS} s")
    return samples


def _probe(data: bytes) -> None:
    """Refuse other containers, and lengths over the limit, before anything is allocated for them."""
    import soundfile

    if data[:4] != b"fLaC" and not (data[:4] == b"RIFF" and data[8:12] == b"WAVE"):
        empty = not data
        reason = QuarantineReason.EMPTY if empty else QuarantineReason.UNREADABLE_AUDIO
        raise RefusedAudioError(reason, "there are no bytes" if empty else "audio is neither WAV nor FLAC")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            frames, rate = file.frames, file.samplerate
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as error:
        raise RefusedAudioError(QuarantineReason.UNREADABLE_AUDIO, f"audio header cannot be read: {error}") from error
    if frames > MAX_CLIP_SECONDS * rate:
        detail = f"header claims {frames / max(rate, 1):.1f} s of audio, over {MAX_CLIP_SECONDS} s"
        raise RefusedAudioError(QuarantineReason.TOO_LONG, detail)


def _reason(error: AudioError) -> QuarantineReason:
    for kind, reason in (
        (WrongSampleRateError, QuarantineReason.WRONG_SAMPLE_RATE),
        (NotMonoError, QuarantineReason.NOT_MONO),
        (EmptyAudioError, QuarantineReason.EMPTY),
    ):
        if isinstance(error, kind):
            return reason
    return QuarantineReason.UNREADABLE_AUDIO
