"""The recordings of AN4 in their official split, read when they are heard, and the noises beside them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voice_pipeline.schema.canonical import digest
from voice_pipeline.speech.audio import SAMPLE_RATE

if TYPE_CHECKING:
    from voice_pipeline.speech.audio import Samples
    from voice_pipeline.training.data import Utterance, Utterances

CORPUS = "an4"
DEV_SHARE = 0.1


class PublishedError(Exception):
    """The comparison cannot be made here; the message says what it needs."""


@dataclass(frozen=True)
class Recording:
    """A line of the corpus manifest, and where it lies."""

    clip_id: str
    speaker: str
    text: str
    sample_count: int
    path: Path


@dataclass(frozen=True)
class Splits:
    """Train, dev and test speakers are disjoint. `version` is the digest of all lines, in their split."""

    train: Utterances
    dev: Utterances
    test: Utterances
    version: str


def read_splits(corpus: Path) -> Splits:
    """The official split, its training part without the development speakers; reads no audio yet. Raises as
    `read_recordings`.
    """
    from voice_pipeline.training.data import Utterances

    parts = read_recordings(corpus)
    told = {name: [(r.clip_id, r.speaker, r.text) for r in chosen] for name, chosen in parts.items()}
    train, dev, test = (Utterances(parts[name], hear) for name in ("train", "dev", "test"))
    return Splits(train, dev, test, digest(told)[:12])


def read_recordings(corpus: Path) -> dict[str, list[Recording]]:
    """Recordings of AN4 by split: `train`, `dev`, `test`.

    Raises:
        PublishedError: the folder has no manifest, AN4 is not in it, or a line of it lacks something.
    """
    rows = [row for row in _lines(corpus / "manifest.jsonl") if row.get("corpus") == CORPUS]
    for row in rows:
        missing = {"path", "speaker", "split", "text", "duration_s"} - row.keys()
        if missing:
            raise PublishedError(
                f"{corpus / 'manifest.jsonl'}: {row.get('path', row)} lacks {', '.join(sorted(missing))}"
            )
    speakers = {row["speaker"] for row in rows if row["split"] == "train"}
    if not speakers or not any(row["split"] == "test" for row in rows):
        raise PublishedError(f"{corpus / 'manifest.jsonl'} has no train and test clips of {CORPUS}")
    ordered = sorted(speakers, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    dev = set(ordered[: max(1, round(DEV_SHARE * len(ordered)))])
    parts: dict[str, list[Recording]] = {"train": [], "dev": [], "test": []}
    for row in rows:
        part = "test" if row["split"] == "test" else "dev" if row["speaker"] in dev else "train"
        samples = round(float(row["duration_s"]) * SAMPLE_RATE)
        parts[part].append(Recording(row["path"], row["speaker"], row["text"], samples, corpus / row["path"]))
    return parts


def hear(recording: Recording) -> Utterance:
    """The recording as PCM16."""
    from voice_pipeline.speech.audio import load, quantise
    from voice_pipeline.training.data import Utterance

    return Utterance(recording.clip_id, recording.speaker, recording.text, quantise(load(recording.path)))


def read_sounds(corpus: Path, kind: str) -> list[Samples]:
    """Recordings of one kind (`noise` or `rir`, a room's impulse response) that lie beside the corpus.

    Raises:
        PublishedError: the folder has no list of them.
    """
    from voice_pipeline.speech.audio import load

    return [load(corpus / row["path"]) for row in _lines(corpus / "noise.jsonl") if row.get("kind") == kind]


def sounds_digest(corpus: Path) -> str:
    """Digest of the list of noises and rooms. Raises as `read_sounds`."""
    return digest(_lines(corpus / "noise.jsonl"))[:12]


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise PublishedError(f"{path} cannot be read: {error}; give the corpus folder") from error
