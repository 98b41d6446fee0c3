"""Encrypted shards: the audio of one batch in one immutable tar file, each member under its subject's key.

A shard is deterministic once written and never rewritten, so its DVC hash stays valid after an erasure; what is lost is
the key. Members are `<clip_id>.flac.enc`; tar is the format of WebDataset (https://github.com/webdataset/webdataset).
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.errors import DamagedShardError, ErasedSubjectError
from voice_pipeline.store.vault import Vault

SUFFIX = ".flac.enc"


@dataclass(frozen=True)
class ShardMember:
    """One clip of a shard: `ciphertext` as it lies in the blob store."""

    clip_id: str
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class Span:
    """Where a member's ciphertext lies in its shard: `size` bytes from byte `offset`."""

    offset: int
    size: int


def write_shard(path: Path, members: Sequence[ShardMember]) -> None:
    """Write members in clip order with fixed headers: the same members give the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for member in sorted(members, key=lambda m: m.clip_id):
            info = tarfile.TarInfo(member.clip_id + SUFFIX)
            info.size = len(member.ciphertext)
            archive.addfile(info, io.BytesIO(member.ciphertext))
    write_atomically(path, buffer.getvalue())


def read_shard(path: Path, subjects: Mapping[str, str], vault: Vault) -> Iterator[tuple[str, bytes]]:
    """Yield (clip_id, FLAC bytes) for each member named in `subjects` (clip_id → subject token).

    Clips of erased subjects are left out silently: that is what erasure means.

    Raises:
        DamagedShardError: the file is no shard, is cut short, or lacks a clip that was asked for.
    """
    left = set(subjects)
    try:
        with tarfile.open(path, mode="r:") as archive:
            for info in archive:
                clip_id = info.name.removesuffix(SUFFIX)
                handle = archive.extractfile(info)
                if clip_id not in left or handle is None:
                    continue
                left.remove(clip_id)
                try:
                    yield clip_id, vault.decrypt(subjects[clip_id], handle.read(), clip_id)
                except ErasedSubjectError:
                    continue
    except tarfile.TarError as error:
        raise DamagedShardError(f"shard {path.name} cannot be read ({error}); restore it with `dvc pull`") from error
    if left:  # tarfile takes an archive cut at a member's border for a whole one
        raise DamagedShardError(
            f"shard {path.name} lacks {len(left)} clips, e.g. {min(left)}; restore it with `dvc pull`"
        )


def shard_spans(path: Path) -> dict[str, Span]:
    """Where each clip lies in a shard, by clip id. Reads the headers (512 bytes a clip), no audio.

    Raises:
        DamagedShardError: the file is missing, no shard, or cut short.
    """
    try:
        with tarfile.open(path, mode="r:") as archive:
            return {info.name.removesuffix(SUFFIX): Span(info.offset_data, info.size) for info in archive}
    except (tarfile.TarError, OSError) as error:
        raise DamagedShardError(f"shard {path.name} cannot be read ({error}); restore it with `dvc pull`") from error


def read_member(path: Path, span: Span, clip_id: str, subject: str, vault: Vault) -> bytes:
    """FLAC bytes of one clip, without reading the rest of its shard. Safe from several threads at once.

    Raises:
        ErasedSubjectError: the subject's key was destroyed.
        DamagedShardError: the shard is gone, or ends before the member does.
        BlobDigestError: what lies there is not this clip.
    """
    try:
        with path.open("rb") as file:
            file.seek(span.offset)
            ciphertext = file.read(span.size)
    except OSError as error:
        raise DamagedShardError(f"shard {path.name} cannot be read ({error}); restore it with `dvc pull`") from error
    if len(ciphertext) < span.size:
        raise DamagedShardError(f"shard {path.name} ends inside clip {clip_id}; restore it with `dvc pull`")
    return vault.decrypt(subject, ciphertext, clip_id)
