"""Errors of the store. Each says what happened, to which id, and what to do now."""

from __future__ import annotations


class StoreError(Exception):
    """Any failure of stored state."""


class DamagedDatabaseError(StoreError):
    """The database file is not a readable database of this project."""


class MissingBlobError(StoreError):
    """A blob that the catalogue names is not in the blob store."""


class BlobDigestError(StoreError):
    """A blob's bytes are not those that were stored."""


class ErasedSubjectError(StoreError):
    """The subject's key was destroyed: nothing encrypted under it can be read again, by design."""


class UnknownSubjectError(StoreError):
    """No key exists for this subject token."""


class LedgerBrokenError(StoreError):
    """The ledger does not verify: a line was changed, removed, inserted or reordered, its last lines were cut off, its
    chain was written anew, or the signed note that would show that (`store.checkpoint`) is missing or not ours.
    """


class LedgerConflictError(StoreError):
    """Another writer appended a line that this decision depends upon; read again and decide again."""


class DamagedShardError(StoreError):
    """A shard's index or record does not match its digest."""


class UnknownDatasetError(StoreError):
    """No dataset version of that name was ever snapshot."""


class DamagedManifestError(StoreError):
    """A dataset's manifest is missing, is no parquet file, or does not match its digest."""


class MissingFeaturesError(StoreError):
    """Features were never published, or a join did not give a row for each clip."""


class MissingFrameError(StoreError):
    """A dataset version has no training frame, or its file is not the one that was built."""
