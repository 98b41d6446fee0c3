"""The training spec, whose digest names the model, and the evaluation report that judges it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from voice_pipeline.schema.base import Record, UtcTime
from voice_pipeline.schema.canonical import digest


class Preset(StrEnum):
    """Encoder sizes: `tiny` ≤ 1 M, `small` ≤ 5 M, `base` ≤ 15 M parameters; `micro` is for quick stories and tests."""

    MICRO = "micro"
    TINY = "tiny"
    SMALL = "small"
    BASE = "base"


class Hyperparameters(Record):
    """What the trainer may turn. `max_epochs` bounds the run; augmentation shares are probabilities."""

    preset: Preset = Preset.TINY
    max_epochs: int = Field(default=80, ge=1)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=1e-3, ge=0)
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    dropout: float = Field(default=0.15, ge=0, lt=1)
    ema_decay: float = Field(default=0.995, ge=0, lt=1)
    speed_perturbation: bool = True
    noise_share: float = Field(default=0.6, ge=0, le=1)
    join_share: float = Field(default=0.35, ge=0, le=1)
    frequency_mask_bins: int = Field(default=15, ge=0)
    time_mask_frames: int = Field(default=20, ge=0)
    patience_epochs: int = Field(default=20, ge=1)


class TrainingSpec(Record):
    """Everything that decides the weights. Same spec → same `model_version` → same artifact.

    `noise_digest` is that of the sorted ids of the noises mixed in; empty in specs from before it was kept.
    """

    dataset_version: str
    feature_schema_version: str
    code_commit: str
    lock_digest: str
    hyperparameters: Hyperparameters
    seed: int
    parent_model_version: str | None = None
    alphabet: str = " abcdefghijklmnopqrstuvwxyz'"
    noise_digest: str = ""

    @property
    def digest(self) -> str:
        later = set() if self.noise_digest else {"noise_digest"}  # a spec from before the field keeps its name
        return digest(self.model_dump(mode="json", exclude=later))


class Interval(Record):
    """An estimate with its bootstrap interval (95 % unless said otherwise)."""

    value: float
    low: float
    high: float


class SliceResult(Record):
    """One slice of an evaluation. `wer` and `cer` are fractions; intervals resample speakers."""

    slice: str
    clips: int
    speakers: int
    words: int
    wer: Interval
    cer: Interval
    substitutions: int
    deletions: int
    insertions: int


class Latency(Record):
    """Waveform-to-text time in ms, one thread. `measured_on` says whether a device or this host was timed."""

    p50_ms: float
    p95_ms: float
    clips: int
    measured_on: str


class EvaluationReport(Record):
    """How one artifact (`variant`: `float` or `int8`) does on one frozen suite.

    `utterances` holds (clip_id, condition, speaker, word errors, words) for paired comparison.
    """

    model_version: str
    variant: str
    suite_id: str
    suite_digest: str
    created_at: UtcTime
    overall: SliceResult
    slices: tuple[SliceResult, ...]
    latency: Latency
    utterances: tuple[tuple[str, str, str, int, int], ...]

    def slice(self, name: str) -> SliceResult | None:
        """The slice called `name`, or None where the suite does not cover it."""
        return next((s for s in self.slices if s.slice == name), None)
