"""A dataset version: gated rows, sealed manifest, encrypted shards, one DVC version that can always be pulled again.

Promises:
- what the gate refuses is not written anywhere;
- the same labels give the same `dataset_version`, however often and after whatever crash it is asked for;
- a version is announced in the catalogue only when its objects are in the remote: no reader meets half of one.

Order of writing, each step repeatable: shards (written once, never rewritten) → manifest (atomic) → DVC add and push →
pointer `versions/<ds>.dvc` → one catalogue transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import RowMapping, func, select

from voice_pipeline.dataset.errors import EmptyDatasetError, ValidationFailedError
from voice_pipeline.dataset.expectations import Validation, validate
from voice_pipeline.dataset.page import render
from voice_pipeline.dataset.rows import Candidates, gather, manifest_rows
from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.schema.dataset import ManifestRow
from voice_pipeline.schema.labeling_policy import load_labeling_policy
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.database import insert_new
from voice_pipeline.store.manifest import MANIFEST, dataset_folder, manifest_bytes, shard_name
from voice_pipeline.store.shards import ShardMember, write_shard
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import batches, dataset_clips, dataset_versions, speaker_splits


@dataclass(frozen=True)
class Snapshot:
    """One dataset version. `created` is False where it was there already; `skipped` counts labelled clips left out."""

    dataset_version: str
    dvc_md5: str
    sequence: int
    parent: str | None
    batches: tuple[str, ...]
    clips: int
    splits: dict[str, int]
    skipped: dict[str, int]
    validation: Validation
    folder: Path
    created: bool


def snapshot(store: Store) -> Snapshot:
    """Make a dataset version of all labels of closed batches that are written in the alphabet of `labeling.yaml`, or
    return the one that holds exactly that.

    Raises:
        EmptyDatasetError: no closed batch holds a usable clip.
        ValidationFailedError: the gate refuses the rows; nothing was written.
    """
    from filelock import FileLock

    root = store.settings.dataset_repo
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".snapshot.lock"):
        alphabet = load_labeling_policy(store.settings.policy_dir).alphabet
        candidates = gather(store, alphabet)
        if not candidates.rows:
            raise EmptyDatasetError(
                f"no usable clip in {len(candidates.batches)} closed batches (left out: {dict(candidates.skipped)}); "
                "label clips and close a batch first"
            )
        validation = _gate(store, candidates, alphabet)
        rows = manifest_rows(candidates)
        manifest = manifest_bytes(store, rows)
        existing = _find(store, sha256_bytes(manifest))
        if existing is None:
            _write(store, candidates, rows, manifest)
            existing = _announce(store, candidates, rows, manifest, validation)
            created = True
        else:
            created = False
        return _describe(store, existing, rows, candidates, validation, created)


def materialise(store: Store, dataset_version: str) -> Path:
    """Folder that holds exactly `dataset_version`, pulled beside the current one where they differ."""
    return dataset_folder(store, dataset_version)


def latest(store: Store) -> RowMapping | None:
    """The newest row of `dataset_versions`, or None."""
    return store.database.row(select(dataset_versions).order_by(dataset_versions.c.sequence.desc()).limit(1))


def latest_version(store: Store) -> str:
    """Name of the newest dataset version. Raises `EmptyDatasetError` where there is none."""
    row = latest(store)
    if row is None:
        raise EmptyDatasetError("there is no dataset version; materialise dataset_snapshot first")
    return str(row["dataset_version"])


def pending_batches(store: Store) -> tuple[str, ...]:
    """Closed batches that no dataset version has looked at yet, in order."""
    seen = {batch for row in store.database.rows(select(dataset_versions.c.batches)) for batch in row["batches"]}
    closed = store.database.rows(select(batches.c.batch_id).order_by(batches.c.batch_id))
    return tuple(row["batch_id"] for row in closed if row["batch_id"] not in seen)


def _gate(store: Store, candidates: Candidates, alphabet: str) -> Validation:
    validation = validate(candidates.rows, alphabet)
    page = store.settings.reports / "dataset" / "gate.html"
    write_atomically(page, render("Dataset gate", validation).encode())
    if not validation.passed:
        broken = "; ".join(
            f"{r.column or 'table'} ({r.why}): {r.unexpected} of {validation.rows} rows, e.g. {', '.join(r.clip_ids)}"
            for r in validation.failures("critical")
        )
        raise ValidationFailedError(
            f"dataset not written, correct these labels or clips: {broken}. Details: {page.name}"
        )
    return validation


def _find(store: Store, manifest_sha256: str) -> RowMapping | None:
    return store.database.row(select(dataset_versions).where(dataset_versions.c.manifest_sha256 == manifest_sha256))


def _write(store: Store, candidates: Candidates, rows: Sequence[ManifestRow], manifest: bytes) -> None:
    """Bring `data/` to exactly these shards and this manifest; leftovers of a crash go."""
    data = store.settings.dataset_repo / "data"
    kept = {row.batch_id for row in rows} | candidates.shards.keys()  # those that wait serve older versions
    wanted = {data / MANIFEST} | {data / shard_name(batch) for batch in kept}
    for path in data.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()
    for batch in sorted({row.batch_id for row in rows}):
        path = data / shard_name(batch)
        if not path.exists():
            members = candidates.shards[batch].items()
            write_shard(path, [ShardMember(clip_id, store.blobs.get(key)) for clip_id, key in members])
    write_atomically(data / MANIFEST, manifest)


def _announce(
    store: Store, candidates: Candidates, rows: Sequence[ManifestRow], manifest: bytes, validation: Validation
) -> RowMapping:
    """Version the folder in DVC, then tell the catalogue in one transaction."""
    from voice_pipeline.store.dvc_repo import add_version

    name, md5 = add_version(store.settings.dataset_repo)
    now = store.now().isoformat()
    with store.database.write() as connection:
        parent = connection.execute(
            select(dataset_versions.c.dataset_version).order_by(dataset_versions.c.sequence.desc()).limit(1)
        ).scalar()
        version = {
            "dataset_version": name,
            "dvc_md5": md5,
            "parent": parent,
            "batches": list(candidates.batches),
            "clips": len(rows),
            "manifest_sha256": sha256_bytes(manifest),
            "validation": validation.model_dump(mode="json"),
            "created_at": now,
            "sequence": (connection.execute(select(func.max(dataset_versions.c.sequence))).scalar() or 0) + 1,
        }
        connection.execute(dataset_versions.insert(), version)
        connection.execute(dataset_clips.insert(), [_lineage(name, row) for row in rows])
        speakers = {row.speaker for row in rows}
        chosen = [
            {"subject_token": s, "split": candidates.splits[s].value, "assigned_at": now} for s in sorted(speakers)
        ]
        insert_new(connection, speaker_splits, chosen)
    found = _find(store, sha256_bytes(manifest))
    assert found is not None
    return found


def _lineage(name: str, row: ManifestRow) -> dict[str, str]:
    return {
        "dataset_version": name,
        "clip_id": row.clip_id,
        "subject_token": row.speaker,
        "consent_id": row.consent_id,
        "split": row.split.value,
        "batch_id": row.batch_id,
    }


def _describe(
    store: Store,
    version: RowMapping,
    rows: Sequence[ManifestRow],
    candidates: Candidates,
    validation: Validation,
    created: bool,
) -> Snapshot:
    return Snapshot(
        dataset_version=version["dataset_version"],
        dvc_md5=version["dvc_md5"],
        sequence=version["sequence"],
        parent=version["parent"],
        batches=tuple(version["batches"]),
        clips=version["clips"],
        splits=dict(sorted(Counter(row.split.value for row in rows).items())),
        skipped=dict(candidates.skipped),
        validation=validation,
        folder=dataset_folder(store, version["dataset_version"]),
        created=created,
    )
