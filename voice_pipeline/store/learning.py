"""Who learnt from a person: the dataset versions in which their clips were for training or development, the models of
those versions, and every model that started from such a model's weights. Being tested on somebody teaches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from voice_pipeline.schema.dataset import Split
from voice_pipeline.store.tables import dataset_clips, models


@dataclass(frozen=True)
class Learnt:
    """Versions in order, each once."""

    dataset_versions: tuple[str, ...]
    model_versions: tuple[str, ...]


def learnt_from(connection: Connection, subject_token: str) -> Learnt:
    """What learnt from one person, heirs by warm start included; erasing the person changes nothing in it."""
    datasets = set(
        connection.execute(
            select(dataset_clips.c.dataset_version)
            .where(dataset_clips.c.subject_token == subject_token, dataset_clips.c.split != Split.TEST.value)
            .distinct()
        ).scalars()
    )
    rows = connection.execute(
        select(models.c.model_version, models.c.dataset_version, models.c.parent_model_version)
    ).all()
    learnt = {row.model_version for row in rows if row.dataset_version in datasets}
    while heirs := {row.model_version for row in rows if row.parent_model_version in learnt} - learnt:
        learnt |= heirs
    return Learnt(tuple(sorted(datasets)), tuple(sorted(learnt)))
