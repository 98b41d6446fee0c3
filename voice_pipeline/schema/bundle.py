"""The manifest of a model bundle: what a device runs, where it came from, how to check it."""

from __future__ import annotations

from pydantic import Field

from voice_pipeline.schema.base import Record, Sha256, UtcTime
from voice_pipeline.schema.canonical import digest


class BundleFile(Record):
    path: str
    sha256: Sha256
    length: int = Field(ge=0)


class GoldenVector(Record):
    """A check a device runs before it trusts a bundle: this deterministic input must give this text.

    The input is a WAV file of the bundle; `log_probs_mean` catches a runtime that computes something else
    and happens to decode alike.
    """

    path: str
    text: str
    log_probs_mean: float
    tolerance: float = 0.05


class BundleManifest(Record):
    """Canonical JSON of this manifest is what gets hashed: `bundle_digest`."""

    format_version: int = 1
    model_version: str
    dataset_version: str
    feature_schema_version: str
    code_commit: str
    lock_digest: str
    spec_digest: Sha256
    parent_model_version: str | None
    suite_digest: Sha256
    wer_int8: float
    wer_float: float
    owner: str
    created_at: UtcTime
    packaging_format: str = "onnx"
    compression: str = "none"
    quantisation: str
    opset: int
    runtimes: tuple[str, ...] = ("onnxruntime>=1.17",)
    min_app_version: str = "1.0.0"
    sample_rate: int = 16_000
    input_name: str = "waveform"
    output_name: str = "log_probs"
    frame_shift_s: float
    files: tuple[BundleFile, ...]
    golden: tuple[GoldenVector, ...]
    environment: dict[str, str] = Field(default_factory=dict)

    @property
    def digest(self) -> str:
        return digest(self)
