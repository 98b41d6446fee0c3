"""What triage knows of a clip beyond its event: acoustic measures and the history of its device profile.

Read online from the feature store, from the views that training frames join at a past instant. Clips that were
measured but are not published yet are read from their measurements; of the rest nothing is known, and no rule fires
on them.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select

from voice_pipeline.labeling.routing import Signals
from voice_pipeline.store.feast_repo import online_features
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clip_features, clips, triage


def read_signals(store: Store, day: str) -> dict[str, Signals]:
    """Signals by clip id of the clips captured on `day` that nobody was asked about yet."""
    waiting = store.database.rows(
        select(clips.c.clip_id, clips.c.device_class, clips.c.microphone, clips.c.locale)
        .outerjoin(triage, triage.c.clip_id == clips.c.clip_id)
        .where(clips.c.capture_date == day, clips.c.erased_at.is_(None), triage.c.selected.is_not(True))
    )
    profiles = {r["clip_id"]: f"{r['device_class']}|{r['microphone']}|{r['locale']}" for r in waiting}
    published = online_features(store, profiles)
    measured = {
        row["clip_id"]: row["values"]
        for row in store.database.rows(select(clip_features).where(clip_features.c.capture_date == day))
    }
    return {clip_id: _signals(published.get(clip_id, {}), measured.get(clip_id, {})) for clip_id in profiles}


def _signals(published: Mapping[str, float | None], measured: Mapping[str, float]) -> Signals:
    def value(name: str) -> float | None:
        online = published.get(name)
        return measured.get(name) if online is None else online

    return Signals(
        snr_db=value("snr_db"),
        loudness_dbfs=value("loudness_dbfs"),
        clipping=value("clipping"),
        correction_rate=published.get("profile_correction_rate"),
    )
