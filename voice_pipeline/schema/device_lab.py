"""What a device lab reports about one bundle on one device: the JSON that `voice-pipeline device-lab import` reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from voice_pipeline.schema.base import Record, Sha256, UtcTime
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.clip import DeviceClass

Name = Annotated[str, Field(min_length=1, max_length=80)]
Milliseconds = Annotated[float, Field(gt=0, le=600_000, allow_inf_nan=False)]


class DeviceLabReport(Record):
    """Waveform-to-text times of one bundle on one device.

    Attributes:
        device_model, os, runtime: e.g. `Pixel 4a`, `Android 14`, `onnxruntime 1.20 CPU`.
        threads: of the runtime.
        bundle_digest, model_version: what was measured; at least one of the two.
        clips: recordings timed, warm-up left out; at least 20, so that a p95 means something.
        p50_ms, p95_ms, p99_ms: percentiles over these clips.
        peak_memory_mb: resident memory of the process at its highest.
    """

    format_version: Literal[1] = 1
    device_class: DeviceClass
    device_model: Name
    os: Name
    runtime: Name
    threads: int = Field(ge=1, le=64)
    bundle_digest: Sha256 | None = None
    model_version: Name | None = None
    clips: int = Field(ge=20)
    p50_ms: Milliseconds
    p95_ms: Milliseconds
    p99_ms: Milliseconds
    peak_memory_mb: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]
    measured_at: UtcTime

    @model_validator(mode="after")
    def _makes_sense(self) -> DeviceLabReport:
        if self.device_class is DeviceClass.UNKNOWN:
            raise ValueError("device_class must name the class that the device is of")
        if not self.p50_ms <= self.p95_ms <= self.p99_ms:
            raise ValueError("percentiles must rise: p50_ms ≤ p95_ms ≤ p99_ms")
        if self.bundle_digest is None and self.model_version is None:
            raise ValueError("it must name what was measured: bundle_digest, model_version or both")
        return self

    @property
    def digest(self) -> str:
        return digest(self)
