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


class UnverifiedDecisionError(ReleaseError):
    """A stored decision is not what an enrolled person signed about this release, or they may not; it is ignored."""


class PersonRefusedError(ReleaseError):
    """Nobody can be enrolled under that name, role or key."""


class UnknownPersonError(ReleaseError):
    """Nobody of that name is enrolled."""


class KeyRefusedError(ReleaseError):
    """A file is no key, or not the key of the person it is used for."""
