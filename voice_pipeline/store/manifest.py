"""How a dataset version is read: one parquet manifest, encrypted shards beside it.

```
<dataset folder>/manifest.parquet        one row a clip, sorted by clip id
<dataset folder>/shards/<batch_id>.tar   audio, one shard a batch, written once
```

Promises: the same rows give the same manifest bytes; what a person said and told about themselves (text, accent,
gender) lies sealed under their own key, so an erased subject's rows vanish from **every** version the moment the key is
destroyed, while all DVC hashes stay valid. Readers see no clip whose subject was erased or whose consent was revoked.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy import select

from voice_pipeline.schema.canonical import canonical_json, sha256_bytes
from voice_pipeline.schema.dataset import ManifestRow
from voice_pipeline.store.errors import DamagedManifestError, DamagedShardError, UnknownDatasetError
from voice_pipeline.store.shards import read_shard
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import consents, dataset_versions

MANIFEST = "manifest.parquet"
SEALED = ("text", "accent", "gender")
OPEN = tuple(name for name in ManifestRow.model_fields if name not in SEALED)
ROWS_AT_ONCE = 8192


def shard_name(batch_id: str) -> str:
    """Path of a batch's shard inside a dataset folder."""
    return f"shards/{batch_id}.tar"


def manifest_bytes(store: Store, rows: Sequence[ManifestRow]) -> bytes:
    """`rows` as parquet, sorted by clip id, personal columns sealed. Equal rows give equal bytes.

    Raises:
        ErasedSubjectError: a row belongs to an erased subject.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    ordered = sorted(rows, key=lambda row: row.clip_id)
    plain = [row.model_dump(mode="json") for row in ordered]
    sealed = store.vault.seal(
        [(row["speaker"], canonical_json({name: row[name] for name in SEALED}), row["clip_id"]) for row in plain]
    )
    columns: dict[str, Any] = {
        name: pa.array([row[name] for row in plain], pa.float64() if name == "duration_s" else pa.string())
        for name in OPEN
    }
    columns["sealed"] = pa.array(sealed, pa.binary())
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return buffer.getvalue()


def read_manifest(store: Store, folder: Path) -> list[ManifestRow]:
    """All rows of `stream_manifest`."""
    return list(stream_manifest(store, folder))


def stream_manifest(store: Store, folder: Path) -> Iterator[ManifestRow]:
    """Rows of the dataset in `folder`, sorted by clip id, without those of erased subjects and revoked consents.

    `ROWS_AT_ONCE` rows lie in memory, however many there are.

    Raises:
        DamagedManifestError: there is no manifest, or it is not one of ours.
    """
    revoked = {
        row["consent_id"]
        for row in store.database.rows(select(consents.c.consent_id).where(consents.c.revoked_at.is_not(None)))
    }
    for plain, items in _sealed_rows(folder / MANIFEST):
        for row, personal in zip(plain, store.vault.unseal(items), strict=True):
            if personal is not None and row["consent_id"] not in revoked:
                yield ManifestRow.model_validate({**row, **json.loads(personal)})


def _sealed_rows(path: Path) -> Iterator[tuple[list[dict[str, Any]], list[tuple[str, bytes, str]]]]:
    """Open columns of some rows, and what `Vault.unseal` takes for each of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for part in file.iter_batches(ROWS_AT_ONCE):
                plain = part.to_pylist()
                yield plain, [(row["speaker"], row.pop("sealed"), row["clip_id"]) for row in plain]
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DamagedManifestError(f"manifest {path} cannot be read ({error}); restore it with `dvc pull`") from error


def schema_problems(folder: Path) -> list[str]:
    """How the columns of a stored manifest differ from those that `manifest_bytes` writes; empty where they do not.

    Raises:
        DamagedManifestError: there is no manifest, or it is no parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / MANIFEST
    try:
        found = {field.name: str(field.type) for field in pq.read_schema(path)}
    except (OSError, pa.ArrowException) as error:
        raise DamagedManifestError(f"manifest {path} cannot be read ({error}); restore it with `dvc pull`") from error
    wanted = {**{name: "double" if name == "duration_s" else "string" for name in OPEN}, "sealed": "binary"}
    missing = [f"column {name} is missing" for name in sorted(wanted.keys() - found.keys())]
    unknown = [f"column {name} is not known" for name in sorted(found.keys() - wanted.keys())]
    wrong = [
        f"column {name} is {found[name]}, not {wanted[name]}"
        for name in sorted(found.keys() & wanted.keys())
        if found[name] != wanted[name]
    ]
    return [*missing, *unknown, *wrong]


def dataset_folder(store: Store, dataset_version: str) -> Path:
    """Folder that holds exactly `dataset_version`: the working `data/`, else that version pulled side by side.

    Raises:
        UnknownDatasetError: no such version.
        DamagedManifestError: the remote no longer gives that version.
    """
    row = store.database.row(select(dataset_versions).where(dataset_versions.c.dataset_version == dataset_version))
    if row is None:
        raise UnknownDatasetError(f"dataset version {dataset_version} is not in this home; was it snapshot elsewhere?")
    wanted = row["manifest_sha256"]
    versions = store.settings.dataset_repo / "versions"
    for folder in (store.settings.dataset_repo / "data", versions / dataset_version):
        if _manifest_sha256(folder) == wanted:
            return folder
    from voice_pipeline.store.dvc_repo import pull_version

    folder = pull_version(store.settings.dataset_repo, dataset_version)
    if _manifest_sha256(folder) != wanted:
        raise DamagedManifestError(
            f"the remote's copy of {dataset_version} is not what was snapshot; restore the remote"
        )
    return folder


def manifest_rows(store: Store, dataset_version: str) -> list[ManifestRow]:
    """Rows of one dataset version, sorted by clip id, without those of erased subjects. Raises as `dataset_folder`."""
    return read_manifest(store, dataset_folder(store, dataset_version))


def read_audio(
    store: Store, rows: Sequence[ManifestRow], folder: Path | None = None
) -> Iterator[tuple[ManifestRow, bytes]]:
    """Yield (row, FLAC bytes) shard by shard, in the order of (shard, clip id), one shard open at a time.

    Shards are never rewritten and the working `data/` holds all of them, so `folder` is needed only for a dataset that
    lies elsewhere. Clips of erased subjects are left out.

    Raises:
        DamagedShardError: a shard is missing or no shard.
    """
    folder = folder or store.settings.dataset_repo / "data"
    ordered = sorted(rows, key=lambda row: (row.shard, row.clip_id))
    for shard, members in groupby(ordered, key=lambda row: row.shard):
        by_clip = {row.clip_id: row for row in members}
        subjects = {clip_id: row.speaker for clip_id, row in by_clip.items()}
        if not (folder / shard).exists():
            raise DamagedShardError(f"shard {shard} is not in {folder}; restore it with `dvc pull`")
        for clip_id, flac in read_shard(folder / shard, subjects, store.vault):
            yield by_clip[clip_id], flac


def _manifest_sha256(folder: Path) -> str | None:
    path = folder / MANIFEST
    return sha256_bytes(path.read_bytes()) if path.exists() else None
