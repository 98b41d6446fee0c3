"""What the live model was trained on, as the sketches that the fleet is held against.

The reference is the train split of the live model's dataset version: the inputs it had a chance to learn. Its acoustic
measures come from `clip_features`, so device and pipeline figures are made by the same code (`speech.measures`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import select

from voice_pipeline.monitoring.errors import MissingReferenceError
from voice_pipeline.monitoring.windows import cohorts_of
from voice_pipeline.schema.dataset import Split
from voice_pipeline.schema.telemetry import DRIFT_FEATURES
from voice_pipeline.speech.measures import speaking_rate
from voice_pipeline.stats.sketches import Sketch
from voice_pipeline.store.releases import ReleaseView, live
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clip_features, clips, dataset_clips, labels, models


@dataclass(frozen=True)
class Reference:
    """Training inputs of one model. `rows` holds each clip's features, `sketches` them by (cohort, feature)."""

    model_version: str
    dataset_version: str
    rows: tuple[dict[str, float], ...]
    sketches: dict[tuple[str, str], Sketch]


def live_reference(store: Store) -> tuple[ReleaseView, Reference] | None:
    """The live release and its training reference; None before the first release.

    Raises:
        MissingReferenceError: the live model's training clips have no measured features.
    """
    release = live(store)
    if release is None:
        return None
    return release, reference(store, release.model_version)


def reference(store: Store, model_version: str) -> Reference:
    """The training reference of one model.

    Raises:
        MissingReferenceError: the model is unknown, or none of its training clips has features.
    """
    dataset = store.database.scalar(select(models.c.dataset_version).where(models.c.model_version == model_version))
    if dataset is None:
        raise MissingReferenceError(f"model {model_version} is not in this home; drift cannot be judged without it")
    grouped: dict[tuple[str, str], list[float]] = defaultdict(list)
    rows = []
    for values, context in _training_clips(store, dataset):
        rows.append(values)
        for cohort in cohorts_of(context):
            for feature in DRIFT_FEATURES:
                if feature in values:
                    grouped[cohort, feature].append(values[feature])
    if not rows:
        raise MissingReferenceError(
            f"no training clip of {dataset} has features (model {model_version}); "
            "materialise clip_features for its days"
        )
    sketches = {key: Sketch(numbers) for key, numbers in grouped.items()}
    return Reference(model_version, dataset, tuple(rows), sketches)


def _training_clips(store: Store, dataset_version: str) -> list[tuple[dict[str, float], dict[str, str]]]:
    """(features, device context) of each training clip, by clip id; clips of erased subjects have no features."""
    statement = (
        select(
            clip_features.c["values"].label("measures"),
            labels.c.text,
            clips.c.device_class,
            clips.c.microphone,
            clips.c.locale,
        )
        .select_from(dataset_clips)
        .join(clip_features, clip_features.c.clip_id == dataset_clips.c.clip_id)
        .join(clips, clips.c.clip_id == dataset_clips.c.clip_id)
        .outerjoin(labels, labels.c.clip_id == dataset_clips.c.clip_id)
        .where(dataset_clips.c.dataset_version == dataset_version, dataset_clips.c.split == Split.TRAIN.value)
        .where(clips.c.erased_at.is_(None))
        .order_by(dataset_clips.c.clip_id)
    )
    result = []
    for row in store.database.rows(statement):
        values = {name: float(row["measures"][name]) for name in DRIFT_FEATURES if name in row["measures"]}
        if row["text"]:
            values["speaking_rate"] = speaking_rate(row["text"], values["duration_s"])
        context = {key: row[key] for key in ("device_class", "microphone", "locale")}
        result.append((values, context))
    return result
