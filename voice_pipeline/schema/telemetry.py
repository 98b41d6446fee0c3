"""What devices report: scalars, never audio, never text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

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
    model silently; its figures travel in `shadow_*` (`shadow_corrected_words` = the words by which the user's final
    text differs from the shadow's answer), all of them or none: a shadow that did not answer is no perfect one.
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

    @model_validator(mode="after")
    def _whole_shadow(self) -> Self:
        missing = [name for name in SHADOW if getattr(self, name) is None]
        if missing and len(missing) < len(SHADOW):
            raise ValueError(
                f"event {self.event_id} has a shadow without {', '.join(missing)}; send all of {', '.join(SHADOW)}, or "
                "none where the shadow did not answer"
            )
        return self


SHADOW = ("shadow_model_version", "shadow_corrected_words", "shadow_latency_ms", "shadow_confidence")
"""What a shadow is told by. Events stored before all were demanded are read as they are, without this check."""

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
