"""What devices report: scalars, never audio, never text."""

from __future__ import annotations

from pydantic import Field

from voice_pipeline.schema.base import Record, UtcTime
from voice_pipeline.schema.clip import DeviceContext


class TelemetryEvent(Record):
    """One dictation on one device. `corrected_words` of `words` were changed by the user afterwards.

    Acoustic measures are those of `voice_pipeline.speech.measures`. In a shadow release the device runs a second
    model silently; that pair of figures travels in `shadow_*` (`shadow_changed_words` = word edits between
    the live answer and the shadow's, `shadow_corrected_words` = the words the user's final text differs by).
    """

    event_id: str = Field(min_length=8, max_length=80)
    device_id: str
    at: UtcTime
    context: DeviceContext
    model_version: str
    release_id: str | None = None
    words: int = Field(ge=0)
    corrected_words: int = Field(ge=0)
    confidence: float = Field(ge=0, le=1)
    latency_ms: float = Field(ge=0)
    crashed: bool = False
    abandoned: bool = False
    fallback: bool = False
    duration_s: float = Field(ge=0)
    snr_db: float
    loudness_dbfs: float
    clipping: float = Field(ge=0, le=1)
    speaking_rate: float = Field(ge=0)
    spectral_tilt: float
    band_low: float
    band_mid: float
    band_high: float
    shadow_model_version: str | None = None
    shadow_corrected_words: int | None = None
    shadow_latency_ms: float | None = None
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
