"""What devices report: scalars, never audio, never text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import Field, StringConstraints

from voice_pipeline.schema.base import Record, UtcTime
from voice_pipeline.schema.clip import DeviceContext
from voice_pipeline.schema.inference import InferenceMode

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=80, pattern=r"^\P{C}+$")]
"""Printable: no control character, no lone surrogate, nothing that a database or a terminal chokes on."""

Words = Annotated[int, Field(ge=0, le=10_000)]
LatencyMs = Annotated[float, Field(ge=0, le=600_000)]


EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)
"""A device that dates its report before this has no clock at all."""


class TelemetryEvent(Record):
    """One dictation on one device. `corrected_words` of `words` were changed by the user afterwards.

    Acoustic measures are those of `voice_pipeline.speech.measures`. In a shadow release the device runs a second
    model silently; that pair of figures travels in `shadow_*` (`shadow_changed_words` = word edits between
    the live answer and the shadow's, `shadow_corrected_words` = the words the user's final text differs by).
    `answered` says who turned it into text: what the edge did (`remote`, the network in its latency) tells nothing of a
    model on that device and counts in no test of a release. `fallback`: the other one should have, and could not.
    The bounds lie far beyond any dictation, and low enough that no sum of counts overflows.
    """

    event_id: Annotated[Identifier, Field(min_length=8)]
    device_id: Identifier
    at: UtcTime = Field(ge=EARLIEST)
    context: DeviceContext
    model_version: Identifier
    release_id: Identifier | None = None
    words: Words
    corrected_words: Words
    confidence: float = Field(ge=0, le=1)
    latency_ms: LatencyMs
    crashed: bool = False
    abandoned: bool = False
    fallback: bool = False
    answered: InferenceMode = InferenceMode.LOCAL
    duration_s: float = Field(ge=0, le=3_600)
    snr_db: float = Field(ge=-200, le=200)
    loudness_dbfs: float
    clipping: float = Field(ge=0, le=1)
    speaking_rate: float = Field(ge=0)
    spectral_tilt: float
    band_low: float
    band_mid: float
    band_high: float
    shadow_model_version: Identifier | None = None
    shadow_corrected_words: Words | None = None
    shadow_latency_ms: LatencyMs | None = None
    shadow_confidence: float | None = None


DRIFT_FEATURES: tuple[str, ...] = (
    "duration_s",
    "snr_db",
    "loudness_dbfs",
    "spectral_tilt",
    "band_low",
    "band_mid",
    "band_high",
    "speaking_rate",
)
"""Input features whose distribution is held against the training reference."""
