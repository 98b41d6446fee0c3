"""Errors of packaging. Each says what happened, to which id, and what to do now."""

from __future__ import annotations


class PackagingError(Exception):
    """Any failure between a trained checkpoint and a published bundle."""


class MissingInputError(PackagingError):
    """Something that packaging needs was not made yet: checkpoint, confidence model, evaluation."""


class ExportMismatchError(PackagingError):
    """The exported graph does not compute what the trained network computes."""


class QuantisationError(PackagingError):
    """No candidate could be made or measured."""


class FootprintError(PackagingError):
    """A bundle's memory and speed could not be measured."""


class BundleConflictError(PackagingError):
    """A bundle of this model version exists already and is no longer what was signed."""


class RepositoryDamagedError(PackagingError):
    """The update repository on disk cannot be read or its keys are gone."""


class NoRepositoryError(PackagingError):
    """A home has no update repository yet."""


class RepositoryWaitsError(PackagingError):
    """A change of the update repository needs a signature, or a key, that is not on this machine."""


class BillOfMaterialsError(PackagingError):
    """A manifest holds what a bill of materials cannot say."""


class AppExportError(PackagingError):
    """A bundle may not go into an app build, or the folder named for it is taken."""
