"""The form in which a bundle travels: one tar (POSIX ustar), compressed with xz; the device's half is `device.archive`.

Equal bundles give equal bytes: headers carry no time, owner or mode of this machine, and members are in order.
"""

from __future__ import annotations

import io
import lzma
import tarfile
from pathlib import Path

from voice_pipeline.trust import signature_path

COMPRESSED, FORMER = ".tar.xz", ".tar"
"""Ends of target names; apps before 1.5.0 know the second only."""
PRESET = 6  # a device needs 9 MB to unpack it (xz(1)); int8 weights gain nothing from more


def target_name(model_version: str) -> str:
    """The TUF target path of a model version's bundle."""
    return model_version + COMPRESSED


def former_name(model_version: str) -> str:
    """The target path under which a bundle may still be on offer from before archives were compressed."""
    return model_version + FORMER


def pack(folder: Path, name: str) -> bytes:
    """A bundle folder and the signature beside it as the archive `name`, compressed if that ends in `.tar.xz`."""
    buffer = io.BytesIO()
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in [*paths, signature_path(folder)]:
            info = tarfile.TarInfo(path.relative_to(folder.parent).as_posix())
            info.size = path.stat().st_size
            with path.open("rb") as content:
                archive.addfile(info, content)
    if name.endswith(COMPRESSED):
        return lzma.compress(buffer.getvalue(), format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=PRESET)
    return buffer.getvalue()
