"""Utterances of a dataset version, read from its encrypted shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.schema.dataset import Split
from voice_pipeline.speech.audio import decode, quantise

if TYPE_CHECKING:
    from voice_pipeline.store.store import Store


@dataclass(frozen=True)
class Utterance:
    """One labelled recording. `samples` PCM16, 16 kHz mono, shape (N,): half the memory of float32."""

    clip_id: str
    speaker: str
    text: str
    samples: NDArray[np.int16]


def read_utterances(store: Store, dataset_version: str, split: Split) -> Iterator[Utterance]:
    """Utterances of one split, shard by shard; clips of people who were erased since are no longer there."""
    from voice_pipeline.store.manifest import manifest_rows, read_audio

    rows = [row for row in manifest_rows(store, dataset_version) if row.split == split]
    for row, audio in read_audio(store, rows):
        yield Utterance(row.clip_id, row.speaker, row.text, quantise(decode(audio)))
