"""Questions asked of published features; each answer is empty, or zero, when all is well."""

from __future__ import annotations

from sqlalchemy import func, select

from voice_pipeline.features.frames import newest_dataset
from voice_pipeline.features.sources import profile_of
from voice_pipeline.store.feast_repo import online_features, source_folder
from voice_pipeline.store.frames import read_frame
from voice_pipeline.store.manifest import manifest_rows
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clip_features, clips

SAMPLE = 50
TOLERANCE = 1e-9


def unmeasured_clips(store: Store) -> int:
    """Clips in use that have no acoustic measures."""
    joined = clips.outerjoin(clip_features, clips.c.clip_id == clip_features.c.clip_id)
    statement = (
        select(func.count()).select_from(joined).where(clips.c.erased_at.is_(None), clip_features.c.clip_id.is_(None))
    )
    return int(store.database.scalar(statement) or 0)


def skewed_clips(store: Store) -> tuple[str, ...]:
    """Of the newest clips, those whose online values differ from the offline source (training-serving skew)."""
    import pyarrow.parquet as pq

    path = source_folder(store) / "clip_acoustics.parquet"
    if not path.exists():
        return ()
    offline = {row["clip_id"]: row for row in sorted(pq.read_table(path).to_pylist(), key=_known)}
    newest = sorted(offline, key=lambda clip_id: _known(offline[clip_id]))[-SAMPLE:]
    rows = store.database.rows(select(clips).where(clips.c.clip_id.in_(newest)))
    online = online_features(store, {row["clip_id"]: profile_of(row) for row in rows})
    names = [name for name in next(iter(offline.values())) if name not in ("clip_id", "event_timestamp")]
    return tuple(
        clip_id
        for clip_id, served in online.items()
        if any(not _same(served.get(name), offline[clip_id][name]) for name in names)
    )


def frame_difference(store: Store) -> int:
    """Rows by which the newest training frame differs from its dataset version's clips.

    Raises:
        FrameRowsError: there is no dataset version.
        MissingFrameError: the newest has no frame.
    """
    version = newest_dataset(store)
    wanted = {row.clip_id for row in manifest_rows(store, version)}
    return len(wanted ^ set(read_frame(store, version)["clip_id"]))


def _known(row: dict[str, object]) -> str:
    return str(row["event_timestamp"])


def _same(served: float | None, source: float | None) -> bool:
    if served is None or source is None:
        return served is source
    return abs(served - source) <= TOLERANCE
