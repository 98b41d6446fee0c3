"""A home that holds an (untrained) checkpoint of a planned model."""

from __future__ import annotations

import json

import pytest

from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import models

UNTRAINED = "m-20261102-0123abcd"


@pytest.fixture
def checkpoint(store: Store) -> str:
    """Model version of a real network with random weights, as a training run would leave it."""
    import torch

    from voice_pipeline.speech.encoder import AcousticModel
    from voice_pipeline.speech.shape import preset
    from voice_pipeline.speech.tokenizer import CharTokenizer

    tokenizer = CharTokenizer()
    config = preset("micro", tokenizer.size)
    torch.manual_seed(3)
    folder = store.settings.models / UNTRAINED / "checkpoint"
    folder.mkdir(parents=True)
    torch.save(AcousticModel(config).state_dict(), folder / "model.pt")
    (folder / "config.json").write_text(json.dumps({"encoder": config.to_dict()}))
    (folder / "tokenizer.json").write_text(tokenizer.to_json())
    now = store.now().isoformat()
    row = {"model_version": UNTRAINED, "spec_digest": "d", "spec": {}, "dataset_version": "ds-1", "state": "trained"}
    with store.database.write() as connection:
        connection.execute(models.insert(), {**row, "cause": {}, "planned_at": now})
    return UNTRAINED
