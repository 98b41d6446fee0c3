"""The manifest of a model bundle: what a device runs, where it came from, how to check it."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from voice_pipeline.schema.base import Record, Sha256, UtcTime
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.decoding import DecoderKind
from voice_pipeline.schema.training import Interval


class BundleFile(Record):
    path: str
    sha256: Sha256
    length: int = Field(ge=0)


class GoldenVector(Record):
    """A check a device runs before it trusts a bundle: this deterministic input must give this text.

    The input is a WAV file of the bundle; `text` is what the bundle's decoder makes of it. `log_probs_mean`, the mean
    of all that the network gives (every frame and class), catches a runtime that computes something else and happens
    to decode alike. `best_classes` are the network's likeliest classes, one a frame, of which a runtime that rounds
    otherwise may change few: `frames_alike` is the least share that must be the same.
    """

    path: str
    text: str
    log_probs_mean: float
    tolerance: float = 0.05
    best_classes: tuple[int, ...] = ()
    frames_alike: float = Field(default=0.97, ge=0, le=1)


class SliceFigures(Record):
    """What an evaluation found on one slice of a suite (`all`, or `condition:…`): fractions with 95 % intervals."""

    slice: str
    clips: int = Field(ge=0)
    speakers: int = Field(ge=0)
    words: int = Field(ge=0)
    wer: Interval
    cer: Interval


class SuiteFigures(Record):
    """One artifact (`variant`: `float` or `int8`) on one frozen suite."""

    suite_id: str
    suite_digest: Sha256
    variant: str
    figures: tuple[SliceFigures, ...] = Field(min_length=1)


class Parity(Record):
    """How near the int8 network comes to the float one on development clips.

    `frames_alike` is the share of frames whose best symbol is the same, `log_probs_mean_difference` the mean absolute
    difference of the best symbol's log-probability (nats), `texts_alike` the share of clips with the same greedy text.
    """

    clips: int = Field(ge=1)
    frames_alike: float = Field(ge=0, le=1)
    log_probs_mean_difference: float = Field(ge=0)
    texts_alike: float = Field(ge=0, le=1)


class Footprint(Record):
    """What one recogniser costs a process of its own on the machine that packaged it, one thread.

    `load_ms` is from files to ready, `clip_3s_p95_ms` waveform to text of 3 s of audio; `peak_memory_mb` is what the
    process held at most (resident, MB of 10^6 bytes) while it heard 30 s of audio, `base_memory_mb` what it held before
    it loaded the bundle: Python, NumPy and ONNX Runtime.
    """

    load_ms: float = Field(ge=0)
    clip_3s_p95_ms: float = Field(ge=0)
    peak_memory_mb: float = Field(ge=0)
    base_memory_mb: float = Field(ge=0)
    measured_on: str


FORMAT = 2
"""The format that is written now. Format 1 had none of `SINCE_2`; both are read, and keep their digests."""
SINCE_2 = ("hyperparameters", "evaluations", "parity", "footprint", "archive", "decoder", "shortest_input")
GOLDEN_SINCE_2 = ("best_classes", "frames_alike")


RUNTIMES = ("onnxruntime>=1.17",)
"""Both forms of a `tiny` gave the same answers with 1.17.3, 1.20.1 and 1.31.1 (by hand, x86-64, 2026-11); 1.15 cannot
read the flat form. The tests run the locked version only."""


class BundleManifest(Record):
    """Canonical JSON of this manifest is what gets hashed: `bundle_digest`.

    The network takes `input_name`, float32 (1, samples), mono, in [-1, 1], at `sample_rate` Hz, silence behind it up to
    `shortest_input` samples, and gives `output_name`, float32 (1, frames, classes), log-probabilities every
    `frame_shift_s` seconds; `decoder` (`greedy` or `beam`, settings in `decoder.json`) makes the text of it.

    `compression` is that of the weights, `archive` the form in which the folder travels; `wer_*` are those of
    `evaluations` on the suite `suite_digest`, over all of it. `environment` are versions of what made the bundle.
    """

    format_version: int = Field(default=FORMAT, ge=1, le=FORMAT)
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
    runtimes: tuple[str, ...] = RUNTIMES
    min_app_version: str = "1.0.0"
    sample_rate: int = 16_000
    input_name: str = "waveform"
    output_name: str = "log_probs"
    frame_shift_s: float
    files: tuple[BundleFile, ...]
    golden: tuple[GoldenVector, ...]
    environment: dict[str, str] = Field(default_factory=dict)
    hyperparameters: dict[str, str | bool | int | float] = Field(default_factory=dict)
    evaluations: tuple[SuiteFigures, ...] = ()
    parity: Parity | None = None
    footprint: Footprint | None = None
    archive: str = "tar.xz"
    decoder: DecoderKind = DecoderKind.GREEDY
    shortest_input: int = Field(default=4_800, ge=0)

    @model_validator(mode="after")
    def _figures_are_told(self) -> BundleManifest:
        told = {(suite.suite_digest, suite.variant): suite.figures[0].wer.value for suite in self.evaluations}
        named = {(self.suite_digest, "float"): self.wer_float, (self.suite_digest, "int8"): self.wer_int8}
        if self.format_version >= FORMAT and any(told.get(key) != wer for key, wer in named.items()):
            raise ValueError("wer_float and wer_int8 are not those of evaluations")
        return self

    @model_serializer(mode="wrap")
    def _as_its_format_has_it(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = plain(self)
        if self.format_version == 1:
            content = {name: value for name, value in content.items() if name not in SINCE_2}
            vectors = content["golden"]
            content["golden"] = [{k: v for k, v in one.items() if k not in GOLDEN_SINCE_2} for one in vectors]
        return content

    @property
    def digest(self) -> str:
        return digest(self)
