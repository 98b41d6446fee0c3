"""Questions asked of dataset versions that already exist; each answer is empty when all is well."""

from __future__ import annotations

import tarfile

from sqlalchemy import func, select

from voice_pipeline.dataset.expectations import Validation
from voice_pipeline.dataset.snapshot import latest, latest_version
from voice_pipeline.schema.dataset import EvalSuite
from voice_pipeline.store.manifest import dataset_folder, read_manifest
from voice_pipeline.store.shards import SUFFIX
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import dataset_clips, dataset_versions, eval_suites

ENOUGH_CLIPS = 30
ENOUGH_SPEAKERS = 5


def broken_expectations(store: Store, severity: str) -> tuple[str, ...]:
    """Broken expectations of the newest version, one readable line each."""
    row = latest(store)
    if row is None:
        return ("there is no dataset version",)
    failures = Validation.model_validate(row["validation"]).failures(severity)
    return tuple(f"{f.column or 'table'}: {f.why} ({f.unexpected} rows)" for f in failures)


def speakers_in_two_splits(store: Store) -> tuple[str, ...]:
    """Speakers that any two dataset versions, or one, have in different splits."""
    clips = dataset_clips.c
    statement = (
        select(clips.subject_token)
        .group_by(clips.subject_token)
        .having(func.count(clips.split.distinct()) > 1)
        .order_by(clips.subject_token)
    )
    return tuple(row["subject_token"] for row in store.database.rows(statement))


def rows_without_audio(store: Store) -> tuple[str, ...]:
    """Clips of the newest version whose shard does not list them."""
    folder = dataset_folder(store, latest_version(store))
    rows = read_manifest(store, folder)
    held: set[str] = set()
    for shard in sorted({row.shard for row in rows}):
        if (folder / shard).exists():
            with tarfile.open(folder / shard, mode="r:") as archive:
                held.update(name.removesuffix(SUFFIX) for name in archive.getnames())
    return tuple(row.clip_id for row in rows if row.clip_id not in held)


def suite_size(store: Store) -> tuple[int, int]:
    """(clips, speakers) of the newest suite; (0, 0) without one."""
    ordered = select(eval_suites.c.suite).join(
        dataset_versions, eval_suites.c.dataset_version == dataset_versions.c.dataset_version
    )
    row = store.database.row(ordered.order_by(dataset_versions.c.sequence.desc()))
    if row is None:
        return 0, 0
    suite = EvalSuite.model_validate(row["suite"])
    speakers = store.database.scalar(
        select(func.count(dataset_clips.c.subject_token.distinct())).where(
            dataset_clips.c.dataset_version == suite.dataset_version, dataset_clips.c.split == "test"
        )
    )
    return len(suite.clip_ids), int(speakers or 0)
