"""Errors of training. Each says what happened, to which model or dataset, and what to do now."""

from __future__ import annotations


class TrainingError(Exception):
    """Any failure on the way from a plan to a trained model."""


class NoTrainingDataError(TrainingError):
    """The dataset version has no usable clip in the split that is needed."""


class ErasedClipError(TrainingError):
    """A person was erased while their clip was being learnt from; a new start goes on without it."""


class CheckpointMismatchError(TrainingError):
    """A checkpoint belongs to another training spec, or the parent has another shape or alphabet."""


class ChangedNoisesError(TrainingError):
    """The noises in the store are not those that the model was planned with."""


class DamagedCheckpointError(TrainingError):
    """A checkpoint file cannot be read."""


class DivergedError(TrainingError):
    """The loss is no longer a number."""


class UnknownModelError(TrainingError):
    """The catalogue has no such model version, or its parent has no checkpoint here."""


class WorkerFailedError(TrainingError):
    """The training subprocess ended without a model."""


class OverfitError(TrainingError):
    """The network cannot learn a handful of clips by heart: no long run would do better."""


class UnusableAnswerError(TrainingError):
    """A network's log-probabilities have the wrong shape, or are no distribution."""


class PreflightError(TrainingError):
    """What must hold before an expensive run does not; the message names every finding that failed."""
