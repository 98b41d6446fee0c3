"""Errors of the simulated fleet. Each says what happened, to which file or id, and what to do now."""

from __future__ import annotations


class FleetError(Exception):
    """Any failure of what stands in for the field."""


class CorpusError(FleetError):
    """A corpus folder, its manifest or one of its recordings cannot be used."""


class SynthesisError(FleetError):
    """The speech synthesiser cannot be loaded, or does not know a voice."""
