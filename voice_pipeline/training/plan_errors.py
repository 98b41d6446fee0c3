"""What planning, judging and tracking a model can refuse."""

from __future__ import annotations

from voice_pipeline.training.errors import TrainingError


class NoDatasetError(TrainingError):
    """There is no dataset version to plan for."""


class UnknownPlanError(TrainingError):
    """No such model was planned, or its stored spec was changed."""


class UnknownProfileError(TrainingError):
    """The settings choose a training profile that the policy does not have."""


class NothingToFitError(TrainingError):
    """No clip to fit the confidence model on."""


class NothingToJudgeError(TrainingError):
    """The model has no fitted confidence."""


class NotTrainedError(TrainingError):
    """A step needs the finished model, and there is none yet."""
