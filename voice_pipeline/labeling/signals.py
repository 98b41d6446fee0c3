"""What triage knows of a clip beyond its event: acoustic measures and the history of its device profile.

Served from the catalogue's `clip_features` rows, the very rows that feature_store publishes.
"""

from __future__ import annotations

from sqlalchemy import select

from voice_pipeline.labeling.routing import Signals
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clip_features


def read_signals(store: Store, day: str) -> dict[str, Signals]:
    """Signals of the clips captured on `day` that have been measured."""
    measured = {
        row["clip_id"]: row["values"]
        for row in store.database.rows(select(clip_features).where(clip_features.c.capture_date == day))
    }
    return {
        clip_id: Signals(
            snr_db=values.get("snr_db"), loudness_dbfs=values.get("loudness_dbfs"), clipping=values.get("clipping")
        )
        for clip_id, values in measured.items()
    }
