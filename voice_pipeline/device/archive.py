"""Unpacking a bundle's archive: tar (POSIX ustar), compressed with xz, or plain as before app 1.5.0.

The archive was vouched for by the repository; still nothing in it can make a device write outside the folder, or more
than `MAX_UNPACKED_BYTES` in `MAX_MEMBERS` files, or need more than `MAX_DECODER_BYTES` to decompress it. Everything is
read in pieces of `PIECE` bytes. Only regular files are known: a header that announces a link, a device or a long name
ends the update, so no header is longer than 512 bytes.
"""

from __future__ import annotations

import lzma
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from voice_pipeline.device.errors import UpdateRefusedError

MAX_UNPACKED_BYTES = 400_000_000
MAX_MEMBERS = 1_000
MAX_DECODER_BYTES = 80 * 2**20  # enough for every preset of xz, `-9` included
PIECE = 2**16
BLOCK = tarfile.BLOCKSIZE
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
CLASHES = (FileExistsError, NotADirectoryError, IsADirectoryError)
"""Two members want the same place; any other `OSError` is this device's own trouble."""


class _Unpacked:
    """The bytes inside an archive, counted; more than `limit` end the update."""

    def __init__(self, archive: Path, limit: int) -> None:
        self._pieces = _decompressed(archive) if archive.suffix == ".xz" else _pieces(archive)
        self._buffer = b""
        self._left = limit

    def take(self, wanted: int) -> bytes:
        """The next `wanted` bytes."""
        while len(self._buffer) < wanted:
            piece = next(self._pieces, None)
            if piece is None:
                raise EOFError("it ends in the middle")
            self._left -= len(piece)
            if self._left < 0:
                raise ValueError("it holds more than a device takes")
            self._buffer += piece
        taken, self._buffer = self._buffer[:wanted], self._buffer[wanted:]
        return taken

    def end(self) -> None:
        """Nothing but padding is left, and the checksum of the compression holds."""
        while not any(self._buffer):
            piece = next(self._pieces, None)
            if piece is None:
                return
            self._left -= len(piece)
            if self._left < 0:
                break
            self._buffer = piece
        raise ValueError("something follows its last file")


def unpack(archive: Path, into: Path, model_version: str, limit: int = MAX_UNPACKED_BYTES) -> None:
    """Unpack a bundle archive: plain files below `<model_version>/` and the signature beside it, nothing else.

    Args:
        archive: ends in `.xz` if it is compressed.
        limit: bytes that may come out of it.

    Raises:
        UpdateRefusedError: the archive is damaged, too big, or holds a link, a device, an absolute or a climbing path.
        OSError: the disk is full or gone.
    """
    try:
        content = _Unpacked(archive, limit)
        for _ in range(MAX_MEMBERS):
            header = content.take(BLOCK)
            if not any(header):
                content.end()
                return
            _write(tarfile.TarInfo.frombuf(header, "utf-8", "strict"), content, into, model_version)
        raise UpdateRefusedError(f"archive of {model_version} holds more than {MAX_MEMBERS} files; update refused")
    except (tarfile.TarError, lzma.LZMAError, EOFError, ValueError, *CLASHES) as error:
        raise UpdateRefusedError(f"archive of {model_version} cannot be unpacked ({error}); update refused") from error


def _write(member: tarfile.TarInfo, content: _Unpacked, into: Path, model_version: str) -> None:
    path = PurePosixPath(member.name)
    inside = len(path.parts) > 1 and path.parts[0] == model_version and ".." not in path.parts
    if member.type not in PLAIN or not (inside or member.name == f"{model_version}.sig"):
        raise UpdateRefusedError(f"archive of {model_version} holds {member.name!r}; update refused")
    target = into / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as out:
        for size in _sizes(member.size):
            out.write(content.take(size))
        out.flush()
        os.fsync(out.fileno())
    content.take(-member.size % BLOCK)


def _sizes(total: int) -> Iterator[int]:
    """`total` bytes as pieces."""
    for start in range(0, total, PIECE):
        yield min(PIECE, total - start)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as handle:
        while piece := handle.read(PIECE):
            yield piece


def _decompressed(path: Path) -> Iterator[bytes]:
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_DECODER_BYTES)
    for piece in _pieces(path):
        if decoder.eof:
            raise ValueError("something follows its end")
        yield decoder.decompress(piece, PIECE)
        while not (decoder.eof or decoder.needs_input):
            yield decoder.decompress(b"", PIECE)
    if not decoder.eof or decoder.unused_data:
        raise EOFError("its compression has no end, or something after it")
