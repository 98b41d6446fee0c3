"""Errors of the features stage."""

from __future__ import annotations


class FeaturesError(Exception):
    """Any failure to measure, publish or join features."""


class FrameRowsError(FeaturesError):
    """A training frame does not hold exactly the clips of its dataset version."""
