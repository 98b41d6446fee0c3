"""Errors of a release. Each says what happened, to which id, and what to do now."""

from __future__ import annotations


class ReleaseError(Exception):
    """Any failure of the release engine."""


class ReleaseRefusedError(ReleaseError):
    """A step was asked for that stored evidence does not allow; the message is the reason."""


class UnknownReleaseError(ReleaseError):
    """No release has that id, or the model was never registered."""


class MissingEvidenceError(ReleaseError):
    """A gate cannot be judged because something it needs is not there yet; the candidate stays where it is."""


class DecisionRefusedError(ReleaseError):
    """The policy does not let this actor decide that, or the decision fits no state of the release."""
