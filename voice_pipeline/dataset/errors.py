"""Errors of the dataset stage."""

from __future__ import annotations


class DatasetError(Exception):
    """Any failure to make a dataset version or a suite."""


class EmptyDatasetError(DatasetError):
    """No closed batch holds a clip that may be used."""


class ValidationFailedError(DatasetError):
    """The rows do not meet the blocking expectations; nothing was written."""


class EmptySuiteError(DatasetError):
    """A dataset version has no test clip to freeze."""
