"""What the live model was accepted for, as the sketches that the fleet is held against.

Two populations make the reference:

- the train split of the model's dataset version: the inputs it had a chance to learn. Its acoustic measures come from
  `clip_features`, so device and pipeline figures are made by the same code (`speech.measures`);
- the field traffic it was accepted with: what devices reported from it under its own release during the canary stages,
  before that release first came into production. A release without a rollout (the first of a home) has none.

Where both are large enough a window is held against the nearest of three mixtures: the train split, both at half the
mass each, the field traffic. So a model that was trained for a new population and promoted on it clears the drift,
though old clips are most of its train split. Three are enough for any mixture between: even of disjoint populations
KS is at most 0.25 and, against the middle one, PSI at most 0.27. The half-and-half alone is not: traffic that is
all new is then KS 0.27 and PSI 0.33 away from it (`make demo QUICK=1`), half of its distance from the train split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from sqlalchemy import select

from voice_pipeline.monitoring.errors import MissingReferenceError
from voice_pipeline.monitoring.windows import EVERYONE, cohorts_of
from voice_pipeline.schema.dataset import Split
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.schema.telemetry import DRIFT_FEATURES
from voice_pipeline.speech.measures import speaking_rate
from voice_pipeline.stats.sketches import Sketch
from voice_pipeline.store.releases import ReleaseView, live
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clip_features, clips, dataset_clips, labels, models, telemetry

ACCEPTED_EVENTS = 20_000
"""The newest events before promotion that are read: bounded work at any traffic, ranks within 1 %."""

Key = tuple[str, str]  # cohort, feature


@dataclass(frozen=True)
class Reference:
    """Accepted inputs of one model. `rows` holds each training clip's features, `sketches` them by (cohort, feature),
    `accepted` those of the field traffic it was promoted with.
    """

    model_version: str
    dataset_version: str
    rows: tuple[dict[str, float], ...]
    sketches: dict[Key, Sketch]
    accepted: dict[Key, Sketch] = field(default_factory=dict)

    def populations(self, min_events: int) -> tuple[dict[Key, Sketch], ...]:
        """What a window may look like: train split, half and half, field; only the first without accepted events.

        A cohort with fewer than `min_events` accepted events borrows everyone's: it was accepted with them.
        """
        both = {}
        for cohort, feature in self.sketches:
            found = next((k for k in ((cohort, feature), (EVERYONE, feature)) if self._seen(k) >= min_events), None)
            if found is not None:
                both[cohort, feature] = self.accepted[found]
        if not both:
            return (self.sketches,)
        half = {key: half_and_half(self.sketches[key], sketch) for key, sketch in both.items()}
        return self.sketches, {**self.sketches, **half}, {**self.sketches, **both}

    def _seen(self, key: Key) -> int:
        return self.accepted[key].n if key in self.accepted else 0


def half_and_half(one: Sketch, other: Sketch) -> Sketch:
    """Their equal mixture, from as many values of each as the smaller one has seen, so its `n` claims no more."""
    size = min(one.n, other.n)
    ranks = (np.arange(size) + 0.5) / size
    return Sketch(np.concatenate([one.quantiles(ranks), other.quantiles(ranks)]))


def live_reference(store: Store) -> tuple[ReleaseView, Reference] | None:
    """The live release and its reference, field traffic included; None before the first release.

    Raises:
        MissingReferenceError: the live model's training clips have no measured features.
    """
    release = live(store)
    if release is None:
        return None
    trained = reference(store, release.model_version)
    return release, replace(trained, accepted=_sketches(_accepted_events(store, release)))


def reference(store: Store, model_version: str) -> Reference:
    """The training reference of one model.

    Raises:
        MissingReferenceError: the model is unknown, or none of its training clips has features.
    """
    dataset = store.database.scalar(select(models.c.dataset_version).where(models.c.model_version == model_version))
    if dataset is None:
        raise MissingReferenceError(f"model {model_version} is not in this home; drift cannot be judged without it")
    clips_found = _training_clips(store, dataset)
    if not clips_found:
        raise MissingReferenceError(
            f"no training clip of {dataset} has features (model {model_version}); "
            "materialise clip_features for its days"
        )
    return Reference(model_version, dataset, tuple(values for values, _ in clips_found), _sketches(clips_found))


def _sketches(found: Iterable[tuple[dict[str, float], dict[str, str]]]) -> dict[Key, Sketch]:
    """Of (features, device context) pairs, by (cohort, feature)."""
    grouped: dict[Key, list[float]] = defaultdict(list)
    for values, context in found:
        for cohort in cohorts_of(context):
            for feature in DRIFT_FEATURES:
                if feature in values:
                    grouped[cohort, feature].append(values[feature])
    return {key: Sketch(numbers) for key, numbers in grouped.items()}


def _accepted_events(store: Store, release: ReleaseView) -> list[tuple[dict[str, float], dict[str, str]]]:
    """(features, device context) of what the release reported before it was first promoted.

    The first time: a release that a rollback brought back was not accepted with what it met while it was live.
    """
    promoted = next(t.at for t in release.transitions if t.to_state is ReleaseState.PRODUCTION)
    statement = (
        select(telemetry.c.event)
        .where(telemetry.c.release_id == release.release_id, telemetry.c.model_version == release.model_version)
        .where(telemetry.c.at < promoted)
        .order_by(telemetry.c.at.desc(), telemetry.c.event_id)
        .limit(ACCEPTED_EVENTS)
    )
    return [(row["event"], row["event"]["context"]) for row in store.database.rows(statement)]


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
