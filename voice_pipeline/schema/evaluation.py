"""What is derived from stored evaluation reports: a paired comparison with another model, latency by device class."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from voice_pipeline.schema.base import Record
from voice_pipeline.schema.clip import DeviceClass
from voice_pipeline.schema.training import Interval

SLICE_KINDS = ("condition", "device", "microphone", "accent", "gender", "source", "length", "snr")
"""What slices of a suite are made by: a slice is called `<kind>:<value>`."""


class RelativeChange(Record):
    """`(candidate - baseline) / baseline` of the error rates: negative = better, -1 = no error left.

    `high` is None where a resample without any baseline error makes it unbounded.
    """

    value: float
    low: float
    high: float | None


class ComparedSlice(Record):
    """Two models on the same utterances of one slice.

    Attributes:
        difference: absolute change of WER (fraction) with its paired 95 % interval over speakers; negative = better.
        relative_change: None where the baseline makes no error at all.
        probability_worse: share of resamples in which the candidate has the higher WER, ties counted half.
        better, worse: shares of clips with fewer, with more word errors than the baseline made.
    """

    slice: str
    clips: int = Field(ge=1)
    speakers: int = Field(ge=1)
    words: int = Field(ge=0)
    baseline_wer: float
    wer: float
    difference: Interval
    relative_change: RelativeChange | None
    probability_worse: float = Field(ge=0, le=1)
    better: float = Field(ge=0, le=1)
    worse: float = Field(ge=0, le=1)


class Comparison(Record):
    """One artifact against another on the frozen suite and the conditions that both heard."""

    model_version: str
    variant: str
    baseline_model_version: str
    baseline_variant: str
    suite_id: str
    suite_digest: str
    overall: ComparedSlice
    slices: tuple[ComparedSlice, ...]


class LatencySource(StrEnum):
    """Who took the time."""

    DEVICE_LAB = "device lab"
    HOST = "host"


class ClassLatency(Record):
    """Waveform-to-text time (ms, one thread) that stands for a device class.

    With `source` `host` it was taken on this machine, which is no such device: a stand-in until a device lab reports.
    """

    device_class: DeviceClass
    p50_ms: float
    p95_ms: float
    p99_ms: float | None = None
    peak_memory_mb: float | None = None
    clips: int
    source: LatencySource
    measured_on: str
