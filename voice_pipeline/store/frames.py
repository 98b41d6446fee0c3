"""Reading training frames: the features of a dataset version's clips as they were known when each was measured.

`features.frames` builds them. What fits a model reads them here, so that stages need not know one another.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sqlalchemy import select

from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.store.errors import MissingFrameError
from voice_pipeline.store.feast_repo import FEATURE_SERVICE, Features
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import training_frames

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("clip_id", "split", "event_timestamp")


def read_frame(store: Store, dataset_version: str, feature_service: str = FEATURE_SERVICE) -> pd.DataFrame:
    """The stored frame of a dataset version: `KEYS` and the service's features, one row a clip.

    Raises:
        MissingFrameError: it was never built, or its file is not the one that was.
    """
    import pandas as pd

    row = store.database.row(
        select(training_frames).where(
            training_frames.c.dataset_version == dataset_version,
            training_frames.c.feature_schema_version == feature_service,
        )
    )
    path = store.settings.root / row["uri"] if row else None
    if row is None or path is None or not path.is_file() or sha256_bytes(path.read_bytes()) != row["sha256"]:
        raise MissingFrameError(
            f"training frame of {dataset_version} ({feature_service}) is missing or changed; materialise training_frame"
        )
    return pd.read_parquet(path)


def frame_features(store: Store, dataset_version: str, feature_service: str = FEATURE_SERVICE) -> dict[str, Features]:
    """clip id → feature name → value, None where nothing was known. Raises as `read_frame`."""
    frame = read_frame(store, dataset_version, feature_service)
    names = [name for name in frame.columns if name not in KEYS]
    return {
        str(row["clip_id"]): {name: None if _is_nothing(row[name]) else float(row[name]) for name in names}
        for row in frame.to_dict("records")
    }


def _is_nothing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
