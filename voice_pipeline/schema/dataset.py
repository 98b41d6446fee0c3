"""Rows of a dataset version and of the evaluation suites frozen from it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from voice_pipeline.schema.base import Record, Sha256


class Split(StrEnum):
    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


class ManifestRow(Record):
    """One labelled clip of a dataset version. `speaker` is the subject token."""

    clip_id: str
    content_sha256: Sha256
    speaker: str
    consent_id: str
    split: Split
    text: str
    batch_id: str
    shard: str
    duration_s: float = Field(gt=0, le=30)
    device_class: str
    microphone: str
    locale: str
    accent: str = ""
    gender: str = ""
    source: str = ""
    captured_at: str


class EvalSuite(Record):
    """A frozen, named set of test clips, speaker-disjoint from all training data.

    `conditions` are the ways each clip is played: `clean`, or `noise_10db` = mixed with noise at 10 dB SNR,
    the noise and its offset drawn from `seed` and the clip id. `noise_ids` are the noises drawn from; none means
    synthesised pink noise.
    """

    suite_id: str
    name: str
    dataset_version: str
    clip_ids: tuple[str, ...]
    conditions: tuple[str, ...] = ("clean", "noise_10db")
    noise_ids: tuple[str, ...] = ()
    seed: int = 7
    digest: Sha256
