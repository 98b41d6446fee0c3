"""Errors of the labeling stage. Each says what happened, to which id, and what to do now."""

from __future__ import annotations


class LabelingError(Exception):
    """Any failure of labeling that a caller can act on."""


class UnknownTaskError(LabelingError):
    """No task has that id."""


class TaskWithdrawnError(LabelingError):
    """The clip was erased or its consent revoked: nobody may listen to it or describe it any more."""


class TaskAnsweredError(LabelingError):
    """The task already has another answer; answers are never overwritten."""


class NotBlindError(LabelingError):
    """The reviewer has already answered for this clip in another pass."""


class InvalidReviewError(LabelingError):
    """The answer contradicts itself or the clip."""
