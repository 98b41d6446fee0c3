"""What triage knows of a clip beyond its event: acoustic measures and the history of its device profile.

Read online from the feature store, from the views that training frames join at a past instant. Clips that were
measured but are not published yet are read from their measurements; of the rest nothing is known, and no rule fires
on them. The confidence of the hypothesis is computed from the same features (`labeling.confidence`).
"""

from __future__ import annotations

from sqlalchemy import select

from voice_pipeline.labeling.confidence import bundled_model, computed_confidence
from voice_pipeline.labeling.routing import Signals
from voice_pipeline.store.feast_repo import Features, online_features
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clip_features, clips, inbox, triage


def read_signals(store: Store, day: str) -> dict[str, Signals]:
    """Signals by clip id of the clips captured on `day` that nobody was asked about yet."""
    waiting = store.database.rows(
        select(
            *(clips.c.clip_id, clips.c.device_class, clips.c.microphone, clips.c.locale),
            *(clips.c.model_version, clips.c.hypothesis, inbox.c.event["posteriors"].label("posteriors")),
        )
        .outerjoin(inbox, inbox.c.clip_id == clips.c.clip_id)
        .outerjoin(triage, triage.c.clip_id == clips.c.clip_id)
        .where(clips.c.capture_date == day, clips.c.erased_at.is_(None), triage.c.selected.is_not(True))
    )
    profiles = {r["clip_id"]: f"{r['device_class']}|{r['microphone']}|{r['locale']}" for r in waiting}
    published = online_features(store, profiles)
    measured = {
        row["clip_id"]: row["values"]
        for row in store.database.rows(select(clip_features).where(clip_features.c.capture_date == day))
    }
    found: dict[str, Signals] = {}
    for row in waiting:
        clip_id = row["clip_id"]
        served = {name: value for name, value in published.get(clip_id, {}).items() if value is not None}
        features: Features = {**measured.get(clip_id, {}), **served}
        model = bundled_model(store, row["model_version"])
        confidence = computed_confidence(model, row["hypothesis"], row["posteriors"], features)
        found[clip_id] = _signals(features, confidence)
    return found


def _signals(features: Features, confidence: float | None) -> Signals:
    return Signals(
        snr_db=features.get("snr_db"),
        loudness_dbfs=features.get("loudness_dbfs"),
        clipping=features.get("clipping"),
        correction_rate=features.get("profile_correction_rate"),
        confidence=confidence,
    )
