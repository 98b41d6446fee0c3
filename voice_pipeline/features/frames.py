"""Training frames: each clip of a dataset version with the features that were known when it had just been measured.

Joining at that instant, not at training time, keeps what later days taught about a device profile out of the past
(point-in-time correctness; https://docs.feast.dev/getting-started/concepts/point-in-time-joins).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from voice_pipeline.features.errors import FrameRowsError
from voice_pipeline.features.publish import parquet_bytes
from voice_pipeline.features.sources import profile_of
from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.schema.dataset import ManifestRow
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.database import upsert
from voice_pipeline.store.feast_repo import FEATURE_SERVICE, features_at
from voice_pipeline.store.manifest import manifest_rows
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clip_features, dataset_versions, training_frames

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TrainingFrame:
    """One parquet file: clip_id, split, event_timestamp and the service's features, sorted by clip id.

    `unmeasured` counts clips without acoustic features.
    """

    dataset_version: str
    feature_service: str
    path: Path
    sha256: str
    rows: int
    features: tuple[str, ...]
    unmeasured: int


def build_frame(store: Store, dataset_version: str) -> TrainingFrame:
    """Join and store the frame of `dataset_version`. The same knowledge gives the same bytes.

    Raises:
        MissingFeaturesError: features were never published, or the join lost rows.
        FrameRowsError: the frame does not hold exactly the version's clips.
    """
    import pyarrow as pa

    rows = manifest_rows(store, dataset_version)
    joined = features_at(store, _entities(store, rows))
    splits = {row.clip_id: row.split.value for row in rows}
    names = [name for name in joined.columns if name not in ("clip_id", "device_profile", "event_timestamp")]
    joined = joined.assign(split=joined["clip_id"].map(splits)).sort_values("clip_id", ignore_index=True)
    if list(joined["clip_id"]) != sorted(splits):
        raise FrameRowsError(f"training frame of {dataset_version} has {len(joined)} rows for {len(splits)} clips")
    table = pa.Table.from_pandas(joined[["clip_id", "split", "event_timestamp", *names]], preserve_index=False)
    data = parquet_bytes(table.replace_schema_metadata())
    uri = f"frames/{dataset_version}-{FEATURE_SERVICE}.parquet"
    write_atomically(store.settings.root / uri, data)
    frame = TrainingFrame(
        dataset_version=dataset_version,
        feature_service=FEATURE_SERVICE,
        path=store.settings.root / uri,
        sha256=sha256_bytes(data),
        rows=len(joined),
        features=tuple(names),
        unmeasured=int(joined["duration_s"].isna().sum()),
    )
    _record(store, frame, uri)
    return frame


def newest_dataset(store: Store) -> str:
    """The newest dataset version. Raises `FrameRowsError` where there is none."""
    version = store.database.scalar(
        select(dataset_versions.c.dataset_version).order_by(dataset_versions.c.sequence.desc()).limit(1)
    )
    if version is None:
        raise FrameRowsError("there is no dataset version to join features to; materialise dataset_snapshot first")
    return str(version)


def _entities(store: Store, rows: list[ManifestRow]) -> pd.DataFrame:
    """clip_id, device_profile, event_timestamp = when the clip's measures became known (its capture if never)."""
    import pandas as pd

    found = store.database.rows(select(clip_features.c.clip_id, clip_features.c.known_at))
    known = {row["clip_id"]: row["known_at"] for row in found}
    instants = [known.get(row.clip_id, row.captured_at) for row in rows]
    return pd.DataFrame(
        {
            "clip_id": [row.clip_id for row in rows],
            "device_profile": [profile_of(row) for row in rows],
            "event_timestamp": pd.to_datetime(instants, utc=True, format="ISO8601").astype("datetime64[us, UTC]"),
        }
    )


def _record(store: Store, frame: TrainingFrame, uri: str) -> None:
    row = {
        "dataset_version": frame.dataset_version,
        "feature_schema_version": frame.feature_service,
        "uri": uri,
        "sha256": frame.sha256,
        "rows": frame.rows,
        "created_at": store.now().isoformat(),
    }
    with store.database.write() as connection:
        upsert(connection, training_frames, row)
