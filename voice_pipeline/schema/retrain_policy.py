"""`policy/retrain.yaml` as typed records, and the causes and decisions that it governs."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, model_validator

from voice_pipeline.schema.base import Record, UtcTime
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.decoding import Decoding
from voice_pipeline.schema.training import Hyperparameters, Preset, SliceMinimum


class Profile(Record):
    """How a model is trained from nothing, how it goes on from the live one, and how its posteriors become text."""

    scratch: Hyperparameters
    warm_start: Hyperparameters
    decoding: Decoding = Decoding()


class Triggers(Record):
    """What may ask for a new model. `incident`: a dataset version may hold an incident's labels past the cooldown."""

    dataset_version: bool = True
    incident: bool = True
    manual: bool = True


class Preflight(Record):
    """What must hold before a training run starts.

    Attributes:
        disk_mb, memory_mb: what a machine must have free at the least; a plan that is estimated to need more must find
            more.
        overfit_loss_share: of the first loss, below which a batch counts as learnt by heart.
        overfit_steps: within which it must be.
        seconds: for everything that is looked at, in a process of its own.
        valid_hours: how long what a machine showed of a spec counts.
    """

    disk_mb: int = Field(default=500, ge=0)
    memory_mb: int = Field(default=700, ge=0)
    overfit_loss_share: float = Field(default=0.01, gt=0, lt=1)
    overfit_steps: int = Field(default=100, ge=1)
    seconds: float = Field(default=60, gt=0)
    valid_hours: float = Field(default=6, gt=0)


class Alarms(Record):
    """Limits beyond which a trained model is marked with a warning (the gates proper are in `release.yaml`); `dev_wer`
    for every size of model, the quick stories' `micro` being far from done.
    """

    dev_wer: dict[Preset, float] = Field(default_factory=lambda: dict.fromkeys(Preset, 0.95))
    calibration_error: float = Field(default=0.15, gt=0, le=1)
    slice_clips: int = Field(default=5, ge=1)
    slice_speakers: int = Field(default=2, ge=1)
    slice_words: int = Field(default=20, ge=1)

    @model_validator(mode="after")
    def _knows_every_size(self) -> Alarms:
        missing = sorted(set(Preset) - self.dev_wer.keys())
        if missing:
            raise ValueError(f"alarms.dev_wer lacks {', '.join(missing)}")
        return self

    @property
    def slice_minimum(self) -> SliceMinimum:
        """The least material of a slice; less is marked in report, chart and card."""
        return SliceMinimum(clips=self.slice_clips, speakers=self.slice_speakers, words=self.slice_words)


class RetrainPolicy(Record):
    """When a model is retrained, and how.

    Attributes:
        profiles: by name; `VOICE_PIPELINE_TRAINING_PROFILE` chooses one.
        cooldown_hours: least time between two plans that people did not ask for; incidents do not wait.
        monthly_training_minutes: budget of a calendar month (UTC), for all causes.
        min_new_clips: new clips to learn from that a dataset version must bring, or after an incident
        `min_incident_clips`. seed: of every spec; a manual request adds its number.
    """

    version: int = 1
    profiles: dict[str, Profile] = Field(min_length=1)
    triggers: Triggers = Triggers()
    cooldown_hours: float = Field(default=12, ge=0)
    monthly_training_minutes: float = Field(default=3000, ge=0)
    min_new_clips: int = Field(default=20, ge=1)
    min_incident_clips: int = Field(default=5, ge=1)
    feature_schema_version: str = "clip_features_v1"
    seed: int = Field(default=1, ge=0)
    preflight: Preflight = Preflight()
    alarms: Alarms = Alarms()


class RetrainTrigger(StrEnum):
    DATASET_VERSION = "dataset_version"
    INCIDENT = "incident"
    MANUAL = "manual"


class RetrainCause(Record):
    """What asks for a new model. Its digest is the decision's id, so one cause is decided once.

    `incidents` are those whose labelled clips the dataset version brings. A manual request names its `actor`, `reason`
    and `number` (from 1), which is added to the seed: asked again, the same data gives another model.
    """

    trigger: RetrainTrigger
    dataset_version: str | None = None
    incidents: tuple[str, ...] = ()
    actor: str = ""
    reason: str = ""
    number: int = Field(default=0, ge=0)

    @property
    def digest(self) -> str:
        return digest(self)

    @property
    def label(self) -> str:
        """One line for run tags and tables."""
        what = {
            RetrainTrigger.DATASET_VERSION: f"dataset {self.dataset_version}",
            RetrainTrigger.INCIDENT: f"incident {', '.join(self.incidents)}",
            RetrainTrigger.MANUAL: f"asked for by {self.actor}: {self.reason}",
        }[self.trigger]
        joined = self.trigger is RetrainTrigger.DATASET_VERSION and self.incidents
        return f"{what}, for incident {', '.join(self.incidents)}" if joined else what


class RetrainDecision(Record):
    """What was decided about one cause. A refusal may turn into an approval later; an approval stands."""

    cause: RetrainCause
    approved: bool
    reason: str
    at: UtcTime

    @property
    def decision_id(self) -> str:
        return self.cause.digest
