"""Errors of the monitoring stage."""

from __future__ import annotations


class MonitoringError(Exception):
    """Any failure to watch the fleet. Not being able to watch is never the same as nothing being wrong."""


class MissingReferenceError(MonitoringError):
    """The live model's training data has no measured features to hold the fleet against."""


class DamagedWindowError(MonitoringError):
    """A stored window cannot be read."""
