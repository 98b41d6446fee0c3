"""Bytes by key, on any fsspec URL. A reader sees a whole blob or none: bytes land under a temporary name, then move."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.store.errors import BlobDigestError, MissingBlobError


class BlobStore:
    """Args:
    url: a folder path or any fsspec URL (`s3://bucket/prefix`, `gs://…`).
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        filesystem, root = fsspec.core.url_to_fs(url)
        self._fs: Any = filesystem
        self._root = root.rstrip("/")
        self._local = filesystem.protocol == "file" or "file" in filesystem.protocol

    def _path(self, key: str) -> str:
        if key.startswith("/") or ".." in key.split("/"):
            raise MissingBlobError(f"blob key {key!r} leaves the store; keys are relative and have no '..'")
        return f"{self._root}/{key}"

    def put(self, key: str, data: bytes) -> str:
        """Store `data` durably under `key` (replacing what is there); returns its sha256."""
        path = self._path(key)
        if self._local:
            write_atomically(Path(path), data)
        else:  # object stores make an object visible only when its upload is complete
            self._fs.pipe_file(path, data)
        return sha256_bytes(data)

    def get(self, key: str, sha256: str | None = None) -> bytes:
        """The bytes under `key`, checked against `sha256` where given.

        Raises:
            MissingBlobError: nothing is stored under `key`.
            BlobDigestError: the bytes are not those with that digest.
        """
        try:
            data: bytes = self._fs.cat_file(self._path(key))
        except FileNotFoundError as error:
            raise MissingBlobError(f"blob {key} is not in {self.url}; restore it or erase its clip") from error
        if sha256 is not None and sha256_bytes(data) != sha256:
            raise BlobDigestError(f"blob {key} was changed after it was stored; restore it from a backup")
        return data

    def exists(self, key: str) -> bool:
        return bool(self._fs.exists(self._path(key)))

    def names(self, suffix: str) -> list[str]:
        """Keys of the blobs right under the store's root that end in `suffix`, sorted; none without a folder."""
        self._fs.invalidate_cache()  # object stores remember listings; another process may have added since
        try:
            found = self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        names = (str(path).rstrip("/").rpartition("/")[2] for path in found)
        return sorted(name for name in names if name.endswith(suffix) and not name.startswith("."))

    def delete(self, key: str) -> None:
        """Remove a blob; removing what is not there is no error."""
        if self.exists(key):
            self._fs.rm_file(self._path(key))


def write_atomically(path: Path, data: bytes) -> None:
    """Write a local file so that a reader, or a crash at any instant, finds the old bytes or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Make sure that the names in a folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
