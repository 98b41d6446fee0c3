"""Prints by how many bytes this process grew while every clip of a dataset was read: `python -m … [open|hold]`.

`hold` keeps all audio, which is what a reader that streams must beat. The home comes from `VOICE_PIPELINE_HOME`.
"""

from __future__ import annotations

import sys
import tracemalloc

from sqlalchemy import select

from voice_pipeline.schema.dataset import Split
from voice_pipeline.settings import load_settings
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import dataset_versions
from voice_pipeline.training.data import open_utterances


def main(how: str) -> None:
    store = Store.open(load_settings())
    version = store.database.scalar(select(dataset_versions.c.dataset_version))
    open_utterances(store, version, Split.TRAIN)[0]  # what is loaded and cached once does not count
    tracemalloc.start()
    utterances = open_utterances(store, version, Split.TRAIN)
    held = [utterance for utterance in utterances if how == "hold"]
    _, peak = tracemalloc.get_traced_memory()
    sys.stdout.write(f"{peak} {len(utterances)} {sum(utterances.sample_counts)} {len(held)}\n")


if __name__ == "__main__":
    main(sys.argv[1])
