"""Files of a device that survive a power cut: the former content or the new one, never a torn one.

Promise: when `replace` returns, the new content is on the disk under its name; if it is killed or finds no room, the
former content is, untouched. Method: write a temporary file beside it, fsync(2), rename(2), fsync of the folder that
holds the name ("All File Systems Are Not Created Equal", Pillai et al., OSDI 2014).

Windows opens no folder, and flushes only a file that is open for writing. There `flush` of a folder does nothing (NTFS
journals a rename by itself), and files are opened for both.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

WINDOWS = os.name == "nt"


def replace(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one move, whatever is there; its folder exists.

    Raises:
        OSError: the disk is full or fails; what was there is still there, and nothing is left beside it.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        temporary.write_bytes(content)
        flush(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)


def flush(path: Path) -> None:
    """Force a file's content, or the names in a folder, to the disk, as far as the system lets a program do that.

    Raises:
        OSError: the disk is full or fails.
    """
    if WINDOWS and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what a `replace` that was killed left in `folder`, when nobody else writes there."""
    for left_over in folder.glob(".*.tmp"):
        with suppress(OSError):
            left_over.unlink()
