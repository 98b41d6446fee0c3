"""A captured clip and what its device said about it. Header claims are recorded, never trusted."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from voice_pipeline.schema.base import Record, UtcTime
from voice_pipeline.schema.consent import ConsentReceipt

MAX_CLIP_SECONDS = 30.0
MAX_CLIP_BYTES = 2_000_000

StatisticName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Statistic = Annotated[float, Field(ge=-1e6, le=1e6)]


class DeviceClass(StrEnum):
    PHONE_LOW = "phone_low"
    PHONE_MID = "phone_mid"
    PHONE_HIGH = "phone_high"
    LAPTOP = "laptop"
    UNKNOWN = "unknown"


NAMED_CLASSES = tuple(one for one in DeviceClass if one is not DeviceClass.UNKNOWN)
"""The classes that a device can be of."""


class Microphone(StrEnum):
    BUILT_IN = "built_in"
    HEADSET = "headset"
    BLUETOOTH = "bluetooth"
    FAR_FIELD = "far_field"
    UNKNOWN = "unknown"


class FailureMode(StrEnum):
    """Why the device offered the clip."""

    NONE = "none"
    LOW_CONFIDENCE = "low_confidence"
    USER_CORRECTED = "user_corrected"
    TIMEOUT = "timeout"


class QuarantineReason(StrEnum):
    UNREADABLE_AUDIO = "unreadable_audio"
    WRONG_SAMPLE_RATE = "wrong_sample_rate"
    NOT_MONO = "not_mono"
    TOO_LONG = "too_long"
    TOO_LARGE = "too_large"
    EMPTY = "empty"
    NO_CONSENT = "no_consent"
    SUBJECT_MISMATCH = "subject_mismatch"


class DeviceContext(Record):
    """The technical cohort of a clip. What nobody told is `unknown`, a locale `und` (BCP 47); it makes no slice."""

    device_class: DeviceClass
    os: Annotated[str, Field(max_length=40)]
    app_version: Annotated[str, Field(max_length=40)]
    microphone: Microphone
    locale: Annotated[str, Field(max_length=20)] = "en-US"

    @property
    def profile(self) -> str:
        """`device_class|microphone|locale`, the key of rolling device statistics in the feature store."""
        return f"{self.device_class}|{self.microphone}|{self.locale}"


UNKNOWN_DEVICE = DeviceContext(
    device_class=DeviceClass.UNKNOWN,
    os="unknown",
    app_version="unknown",
    microphone=Microphone.UNKNOWN,
    locale="und",
)
"""Of a recording that says nothing of where it was made."""


class CaptureEvent(Record):
    """What a device posts beside the audio bytes. `event_id` is the idempotency key.

    `hypothesis`, `confidence` ([0, 1]) and `latency_ms` are those of `model_version` on the device; `posteriors` are
    its posterior statistics by name (`speech.confidence.scalars`), from which triage computes the confidence again.
    `accent`, `gender`, `age` are what the speaker chose to tell; empty means not told.
    """

    event_id: Annotated[str, Field(min_length=8, max_length=80)]
    clip_id: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]
    consent: ConsentReceipt
    captured_at: UtcTime
    context: DeviceContext
    failure_mode: FailureMode = FailureMode.NONE
    model_version: str | None = None
    hypothesis: Annotated[str, Field(max_length=2000)] | None = None
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    latency_ms: Annotated[float, Field(ge=0)] | None = None
    posteriors: Annotated[dict[StatisticName, Statistic], Field(max_length=40)] | None = None
    accent: Annotated[str, Field(max_length=80)] = ""
    gender: Annotated[str, Field(max_length=20)] = ""
    age: Annotated[str, Field(max_length=20)] = ""
    source: Annotated[str, Field(max_length=80)] = "device"
