"""Utterances of a dataset version, read from its encrypted shards one at a time, in any order.

Promises: what lies in memory is one small row a clip and never audio, however large the dataset; a clip is read,
decrypted and decoded when it is asked for, from any thread; clips of people who were erased are not there at opening,
and a key that is destroyed later closes its clips at once (`ErasedClipError`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from voice_pipeline.schema.dataset import Split
from voice_pipeline.speech.audio import SAMPLE_RATE, decode, quantise
from voice_pipeline.training.errors import ErasedClipError

if TYPE_CHECKING:
    from voice_pipeline.store.shards import Span
    from voice_pipeline.store.store import Store


@dataclass(frozen=True)
class Utterance:
    """One labelled recording. `samples` PCM16, 16 kHz mono, shape (N,): half the memory of float32."""

    clip_id: str
    speaker: str
    text: str
    samples: NDArray[np.int16]

    @property
    def sample_count(self) -> int:
        return int(self.samples.size)


class Row(Protocol):
    """What is known of an utterance without hearing it."""

    @property
    def clip_id(self) -> str: ...
    @property
    def speaker(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def sample_count(self) -> int: ...


class Utterances(Sequence[Utterance]):
    """Utterances in a fixed order; indexing one reads its audio, the columns and a slice read none.

    Args:
        rows: one an utterance, in order.
        read: makes the utterance of a row; called once for each index taken, from the thread that takes it.
    """

    def __init__(self, rows: Sequence[Row], read: Callable[[Any], Utterance]) -> None:
        self._rows = rows
        self._read = read

    @classmethod
    def of(cls, utterances: Sequence[Utterance]) -> Utterances:
        """`utterances` themselves, or a list of them that lies in memory already under the same face."""
        return utterances if isinstance(utterances, Utterances) else cls(utterances, lambda utterance: utterance)

    @property
    def clip_ids(self) -> list[str]:
        return [row.clip_id for row in self._rows]

    @property
    def speakers(self) -> list[str]:
        return [row.speaker for row in self._rows]

    @property
    def texts(self) -> list[str]:
        return [row.text for row in self._rows]

    @property
    def sample_counts(self) -> list[int]:
        """Length of each utterance in samples of 16 kHz."""
        return [row.sample_count for row in self._rows]

    def select(self, indices: Iterable[int]) -> Utterances:
        """The utterances at `indices`, in that order; reads no audio."""
        return Utterances([self._rows[index] for index in indices], self._read)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...
    @overload
    def __getitem__(self, index: slice) -> Utterances: ...
    def __getitem__(self, index: int | slice) -> Utterance | Utterances:
        if isinstance(index, slice):
            return Utterances(self._rows[index], self._read)
        return self._read(self._rows[index])


@dataclass(frozen=True, slots=True)
class StoredClip:
    """A clip of a dataset version: what was said, and where its ciphertext lies."""

    clip_id: str
    speaker: str
    text: str
    sample_count: int
    shard: str
    span: Span


def open_utterances(store: Store, dataset_version: str, split: Split) -> Utterances:
    """The utterances of one split in the order of (shard, clip id); reads the manifest and the shards' headers.

    Indexing the result raises:
        ErasedClipError: the person was erased since.
        DamagedShardError, BlobDigestError, DamagedManifestError: the audio is gone, cut short or another.
        AudioError: the recording cannot be decoded.

    Raises:
        UnknownDatasetError, DamagedManifestError: there is no such version, or it cannot be read.
        DamagedShardError: a shard is missing or lacks a clip.
    """
    folder = store.settings.dataset_repo / "data"  # shards are never rewritten, and it holds those of all versions
    clips = _located(store, dataset_version, split, folder)
    return Utterances(clips, lambda clip: _hear(store, folder, dataset_version, clip))


def _located(store: Store, dataset_version: str, split: Split, folder: Path) -> list[StoredClip]:
    from voice_pipeline.store.errors import DamagedShardError
    from voice_pipeline.store.manifest import dataset_folder, stream_manifest
    from voice_pipeline.store.shards import shard_spans

    told = sorted(
        (intern(row.shard), row.clip_id, intern(row.speaker), row.text, round(row.duration_s * SAMPLE_RATE))
        for row in stream_manifest(store, dataset_folder(store, dataset_version))
        if row.split == split
    )
    clips = []
    for shard, members in groupby(told, key=lambda row: row[0]):
        spans = shard_spans(folder / shard)
        for _, clip_id, speaker, text, count in members:
            if clip_id not in spans:
                raise DamagedShardError(f"shard {shard} lacks clip {clip_id}; restore it with `dvc pull`")
            clips.append(StoredClip(clip_id, speaker, text, count, shard, spans[clip_id]))
    return clips


def _hear(store: Store, folder: Path, dataset_version: str, clip: StoredClip) -> Utterance:
    from voice_pipeline.store.errors import DamagedManifestError, ErasedSubjectError
    from voice_pipeline.store.shards import read_member

    try:
        flac = read_member(folder / clip.shard, clip.span, clip.clip_id, clip.speaker, store.vault)
    except ErasedSubjectError as error:
        raise ErasedClipError(
            f"clip {clip.clip_id} of {dataset_version} was erased while it was in use; start again to go on without it"
        ) from error
    samples = quantise(decode(flac))
    if samples.size != clip.sample_count:
        raise DamagedManifestError(
            f"clip {clip.clip_id} has {samples.size} samples, the manifest of {dataset_version} tells "
            f"{clip.sample_count}; snapshot a new version"
        )
    return Utterance(clip.clip_id, clip.speaker, clip.text, samples)
