"""What the catalogue knows of a model version that its bundle must carry."""

from __future__ import annotations

from sqlalchemy import select

from voice_pipeline.packaging.errors import MissingInputError
from voice_pipeline.schema.training import TrainingSpec
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import models


def training_spec(store: Store, model_version: str) -> TrainingSpec:
    """The spec that gave `model_version` its name.

    Raises:
        MissingInputError: the catalogue does not know that model.
    """
    spec = store.database.scalar(select(models.c.spec).where(models.c.model_version == model_version))
    if spec is None:
        raise MissingInputError(f"model {model_version} is not in the catalogue; materialise training_plan first")
    return TrainingSpec.model_validate(spec)
