"""Publishing: the catalogue's features become Feast's parquet sources, then its online store.

The sources are rebuilt whole (scalars only: about 100 bytes a clip) and replaced atomically. A clip that has left the
catalogue through an erasure leaves the sources, the online store and every stored training frame with it.

The note of the last whole publication (`store.feast_repo.published_until`) is written last and blanked first, before
the sources lose a clip: whatever a kill leaves half done, the next publication brings online.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from voice_pipeline.features.sources import ACOUSTICS, acoustic_rows, profile_rows
from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.feast_repo import (
    FEATURE_SERVICE,
    note_published,
    publish_sources,
    published_until,
    source_folder,
    unpublish,
)
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, training_frames

PROFILE_COLUMNS = (
    *("profile_correction_rate", "profile_fallback_rate", "profile_mean_snr_db"),
    *("profile_dictations", "profile_clips"),
)
OVERLAP = timedelta(days=2)
"""How far before the newest published row rows are served again, for those that became known while it ran."""


@dataclass(frozen=True)
class PublishSummary:
    """What Feast serves now. `forgotten` counts clips that were served before and are erased."""

    feature_service: str
    clips: int
    profiles: int
    known_until: datetime
    forgotten: int
    frames_rewritten: int


def publish(store: Store) -> PublishSummary:
    """Rebuild the sources, apply the definitions, materialise. Safe to repeat and to kill; fine with no clip at all."""
    from filelock import FileLock

    data = source_folder(store)
    data.mkdir(parents=True, exist_ok=True)
    with FileLock(data.parent / ".publish.lock"):
        acoustics, profiles = acoustic_rows(store), profile_rows(store)
        kept = {row["clip_id"] for row in acoustics}
        forgotten = _served(data / "clip_acoustics.parquet") - kept
        if forgotten or published_until(store) is None:
            unpublish(store)
        write_atomically(data / "clip_acoustics.parquet", _parquet("clip_id", acoustics, (*ACOUSTICS, "speaking_rate")))
        write_atomically(data / "device_profile.parquet", _parquet("device_profile", profiles, PROFILE_COLUMNS))
        earliest = min((row["event_timestamp"] for row in acoustics + profiles), default=store.now())
        until = published_until(store)
        since = earliest if until is None else max(earliest, until - OVERLAP)
        publish_sources(store, since - timedelta(seconds=1), store.now() + timedelta(seconds=1), afresh=until is None)
        note_published(store, max((row["event_timestamp"] for row in acoustics), default=earliest))
        rewritten = forget_erased(store)
    return PublishSummary(
        feature_service=FEATURE_SERVICE,
        clips=len(kept),
        profiles=len({row["device_profile"] for row in profiles}),
        known_until=store.now(),
        forgotten=len(forgotten),
        frames_rewritten=rewritten,
    )


def forget_erased(store: Store) -> int:
    """Drop rows of erased clips from every stored training frame; returns how many frames changed."""
    erased = store.database.rows(select(clips.c.clip_id).where(clips.c.erased_at.is_not(None)))
    gone = {row["clip_id"] for row in erased}
    if not gone:
        return 0
    return sum(_rewrite(store, dict(frame), gone) for frame in store.database.rows(select(training_frames)))


def _rewrite(store: Store, frame: dict[str, Any], gone: set[str]) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = store.settings.root / frame["uri"]
    if not path.exists():
        return False
    table = pq.read_table(path)
    left = table.filter(pc.invert(pc.is_in(table["clip_id"], value_set=pa.array(sorted(gone)))))
    if left.num_rows == table.num_rows:
        return False
    data = parquet_bytes(left)
    write_atomically(path, data)
    with store.database.write() as connection:
        connection.execute(
            update(training_frames)
            .where(training_frames.c.dataset_version == frame["dataset_version"])
            .where(training_frames.c.feature_schema_version == frame["feature_schema_version"])
            .values(sha256=sha256_bytes(data), rows=left.num_rows)
        )
    return True


def parquet_bytes(table: Any) -> bytes:
    """A pyarrow table as parquet; equal tables give equal bytes."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _parquet(key: str, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> bytes:
    """Rows as parquet with the timestamps in microseconds, as DuckDB wants them."""
    import pyarrow as pa

    counts = ("profile_dictations", "profile_clips")
    fields = [pa.field(key, pa.string()), pa.field("event_timestamp", pa.timestamp("us", "UTC"))]
    fields += [pa.field(name, pa.int64() if name in counts else pa.float64()) for name in columns]
    return parquet_bytes(pa.Table.from_pylist(list(rows), pa.schema(fields)))


def _served(path: Path) -> set[str]:
    """Clip ids in the sources as they lie there now."""
    import pyarrow.parquet as pq

    return set(pq.read_table(path, columns=["clip_id"])["clip_id"].to_pylist()) if path.exists() else set()
