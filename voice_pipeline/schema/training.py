"""The training spec, whose digest names the model, and the evaluation report that judges it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field, model_validator

from voice_pipeline.schema.base import Record, UtcTime
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.decoding import DecoderKind, Decoding


class Preset(StrEnum):
    """Encoder sizes: `tiny` ≤ 1 M, `small` ≤ 5 M, `base` ≤ 15 M parameters; `micro` is for quick stories and tests."""

    MICRO = "micro"
    TINY = "tiny"
    SMALL = "small"
    BASE = "base"


class Hyperparameters(Record):
    """What the trainer may turn. `max_epochs` bounds the run; augmentation shares are probabilities; `masks` is how
    often a band of bins and a stretch of frames are masked; `formant_mel` is the deviation, in mel, of warps that move
    formants. From `splice_from` of the run on, `splice_share` of the examples end as another utterance of their speaker
    does, cut between words by what the network has learnt.
    """

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
    masks: int = Field(default=1, ge=0)
    room_share: float = Field(default=0.0, ge=0, le=1)
    formant_mel: float = Field(default=0.0, ge=0, le=100)
    tempo_perturbation: bool = False
    splice_share: float = Field(default=0.0, ge=0, le=1)
    splice_from: float = Field(default=0.3, ge=0, lt=1)
    patience_epochs: int = Field(default=20, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _without_former(cls, content: Any) -> Any:
        """Specs that were stored when there was more to turn are read as what they mean, where they did not turn it."""
        if not isinstance(content, dict):
            return content
        former = FORMER_HYPERPARAMETERS
        return {name: value for name, value in content.items() if name not in former or value != former[name]}


LATER_HYPERPARAMETERS: dict[str, bool | int | float] = {
    "masks": 1,
    "room_share": 0.0,
    "formant_mel": 0.0,
    "tempo_perturbation": False,
    "splice_share": 0.0,
    "splice_from": 0.3,
}
"""Those that the first specs had not, with the value that means what these meant."""
FORMER_HYPERPARAMETERS: dict[str, float] = {"consistency": 0.0, "consistency_from": 0.5}
"""Those that are gone, with the value that meant what is done now; the digest never held that value."""


class TrainingSpec(Record):
    """Everything that decides the weights and the decoder. Same spec → same `model_version` → same artifact.

    `noise_digest` is that of the sorted ids of the noises mixed in; empty in specs from before it was kept. Greedy
    `decoding` is not part of the name: it is what specs from before there was a choice mean.
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
    decoding: Decoding = Decoding()

    @property
    def digest(self) -> str:
        content = self.model_dump(mode="json")  # a spec from before a field was there keeps its name:
        if not self.noise_digest:
            del content["noise_digest"]
        if self.decoding.kind is DecoderKind.GREEDY:
            del content["decoding"]
        for name, neutral in LATER_HYPERPARAMETERS.items():
            if content["hyperparameters"][name] == neutral:
                del content["hyperparameters"][name]
        return digest(content)


class Interval(Record):
    """An estimate with its bootstrap interval (95 % unless said otherwise)."""

    value: float
    low: float
    high: float


class WordErrors(Record):
    """What became of one word: how often it was said, heard as another, missed, or put in where nobody said it.

    `speakers` are those who said it or in whose clips it was put in; `heard_as` is its most frequent substitute
    (`heard_as_times` times), None where it was never substituted.
    """

    word: str
    said: int = Field(ge=0)
    substituted: int = Field(ge=0)
    deleted: int = Field(ge=0)
    inserted: int = Field(ge=0)
    speakers: int = Field(ge=1)
    heard_as: str | None = None
    heard_as_times: int = Field(default=0, ge=0)

    @property
    def errors(self) -> int:
        return self.substituted + self.deleted + self.inserted


class SliceResult(Record):
    """One slice of an evaluation. `wer` and `cer` are fractions; intervals resample speakers.

    `worst_words` are those with most errors, worst first, a bounded number; empty in reports from before it.
    """

    slice: str
    clips: int
    speakers: int
    words: int
    wer: Interval
    cer: Interval
    substitutions: int
    deletions: int
    insertions: int
    worst_words: tuple[WordErrors, ...] = ()


class SliceMinimum(Record):
    """The least material that a slice's figures are trusted on."""

    clips: int = Field(default=5, ge=1)
    speakers: int = Field(default=2, ge=1)
    words: int = Field(default=20, ge=1)

    def missing(self, part: SliceResult) -> str:
        """What `part` lacks, e.g. `1 of 2 speakers, 9 of 20 words`; empty where it has enough."""
        wanted = {"clips": self.clips, "speakers": self.speakers, "words": self.words}
        short = [
            f"{getattr(part, name)} of {need} {name}" for name, need in wanted.items() if getattr(part, name) < need
        ]
        return ", ".join(short)


class MarkResult(Record):
    """One punctuation mark, or all together (`mark` is `all`): counts, and fractions that are None without a count."""

    mark: str
    reference: int = Field(ge=0)
    hypothesis: int = Field(ge=0)
    right: int = Field(ge=0)
    precision: float | None
    recall: float | None
    f1: float | None


class PunctuationResult(Record):
    """What a model makes of case and punctuation, on the clips whose references have them; intervals resample speakers.

    `f1` is over all marks together; None where no reference has a mark. `casing_accuracy` is the share of rightly
    heard words that are written like the reference; None where no reference mixes capitals and lowercase.
    `formatted_wer` counts words with their case and marks.
    """

    f1: Interval | None
    marks: tuple[MarkResult, ...]
    casing_accuracy: Interval | None
    formatted_wer: Interval
    clips: int = Field(ge=1)


class WakeWordResult(Record):
    """How often a wake word is found where it was said, and heard where it was not.

    `threshold` finds the required share of the `calibration_clips`, of which none is among `positives`. Where a figure
    cannot be given, `not_covered` says why and the figures are None: never 0. Intervals are 95 %: Wilson's for
    `detection`, Garwood's exact Poisson one for `false_alarms_per_hour`.
    """

    phrase: str
    calibration_clips: int = Field(ge=0)
    positives: int = Field(ge=0)
    negative_hours: float = Field(ge=0)
    threshold: float | None = None
    detection: Interval | None = None
    false_alarms: int | None = None
    false_alarms_per_hour: Interval | None = None
    not_covered: str = ""


class Latency(Record):
    """Waveform-to-text time in ms, one thread. `measured_on` says whether a device or this host was timed."""

    p50_ms: float
    p95_ms: float
    clips: int
    measured_on: str


class EvaluationReport(Record):
    """How one artifact (`variant`: `float` or `int8`) does on one frozen suite.

    `utterances` holds (clip_id, condition, speaker, word errors, words) for paired comparison; `members` names for each
    slice the positions of its utterances there (empty in reports from before it was kept). `punctuation` is None where
    no reference has case or marks, `wake_words` empty where no phrase is asked for. `policy_digest` is that of
    `policy/evaluation.yaml` as it was read; empty in reports from before it was kept.
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
    members: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    punctuation: PunctuationResult | None = None
    wake_words: tuple[WakeWordResult, ...] = ()
    policy_digest: str = ""

    @property
    def parts(self) -> tuple[SliceResult, ...]:
        """Overall, then every slice."""
        return (self.overall, *self.slices)

    def slice(self, name: str) -> SliceResult | None:
        """The slice called `name`, or None where the suite does not cover it."""
        return next((s for s in self.slices if s.slice == name), None)
