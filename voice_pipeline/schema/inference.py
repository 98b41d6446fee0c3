"""Where a dictation is turned into text, and what the edge answers when it does that."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from voice_pipeline.schema.base import Record, Sha256

NOTICE_HEADER = "Remote-Processing-Notice"
"""HTTP header: the version of the privacy notice under which the speaker agreed to remote processing."""


class InferenceMode(StrEnum):
    """`local`: on the device itself; `remote`: by the edge, with the live model."""

    LOCAL = "local"
    REMOTE = "remote"


class Transcription(Record):
    """What the edge heard. `latency_ms` is its own time from waveform to text, the network apart."""

    text: str
    confidence: float = Field(ge=0, le=1)
    latency_ms: float = Field(ge=0)
    model_version: str
    bundle_digest: Sha256
