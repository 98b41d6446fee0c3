"""The comparison with published results: AN4 by its official split, with this project's trainer, quantiser and decoder.

ESPnet's transformer makes 7.4 % WER with a language model there, deepspeech.pytorch 9.57 %. Protocol: the 130 test
clips are heard once, at the end. A tenth of the training speakers, chosen by the digest of their names, is the
development split, on which everything is chosen: recipe, best epoch, int8 candidate, weights of the language model,
confidence. The language model sees training texts only. Recipe: profile `full` of `policy/retrain.yaml`.

Each seed is kept under `<home>/published`, so that benchmarks and tables train a seed once; a killed run resumes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.training import Hyperparameters, TrainingSpec
from voice_pipeline.store.store import Store

if TYPE_CHECKING:
    from voice_pipeline.training.data import Utterance, Utterances
    from voice_pipeline.training.trainer import EpochReport

CORPUS = "an4"
RECIPE = "an4-1"
"""Part of every spec; change it to train anew after a change of the trainer that is meant to change results."""
DEV_SHARE = 0.1
SEEDS = (1, 2, 3)


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
    """The official split of AN4, the training part without its development speakers; reads no audio yet.

    Raises:
        PublishedError: the folder has no manifest, or AN4 is not in it.
    """
    from voice_pipeline.training.data import Utterances

    try:
        lines = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise PublishedError(f"{corpus / 'manifest.jsonl'} cannot be read: {error}; give the corpus folder") from error
    rows = [row for row in lines if row.get("corpus") == CORPUS]
    speakers = {row["speaker"] for row in rows if row["split"] == "train"}
    if not speakers or not any(row["split"] == "test" for row in rows):
        raise PublishedError(f"{corpus / 'manifest.jsonl'} has no train and test clips of {CORPUS}")
    ordered = sorted(speakers, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    dev = set(ordered[: max(1, round(DEV_SHARE * len(ordered)))])
    parts: dict[str, list[Recording]] = {"train": [], "dev": [], "test": []}
    for row in rows:
        part = "test" if row["split"] == "test" else "dev" if row["speaker"] in dev else "train"
        samples = round(float(row["duration_s"]) * 16_000)
        parts[part].append(Recording(row["path"], row["speaker"], row["text"], samples, corpus / row["path"]))
    told = {name: [(r.clip_id, r.speaker, r.text) for r in chosen] for name, chosen in parts.items()}
    return Splits(**{name: Utterances(chosen, _hear) for name, chosen in parts.items()}, version=digest(told)[:12])


def _hear(recording: Recording) -> Utterance:
    from voice_pipeline.speech.audio import load, quantise
    from voice_pipeline.training.data import Utterance

    return Utterance(recording.clip_id, recording.speaker, recording.text, quantise(load(recording.path)))


def read_sounds(corpus: Path) -> tuple[list[Any], list[Any]]:
    """(noises, room responses) of the corpus: float32 samples."""
    from voice_pipeline.speech.audio import load

    lines = [json.loads(line) for line in (corpus / "noise.jsonl").read_text().splitlines()]
    return tuple([load(corpus / row["path"]) for row in lines if row["kind"] == kind] for kind in ("noise", "rir"))  # type: ignore[return-value]


def spec_of(splits: Splits, hyperparameters: Hyperparameters, seed: int) -> TrainingSpec:
    """The spec of one seed. Its code is `RECIPE`, so that a commit elsewhere does not ask for hours of training."""
    from voice_pipeline.training.provenance import lock_digest

    return TrainingSpec(
        dataset_version=f"{CORPUS}-{splits.version}",
        feature_schema_version="none",
        code_commit=RECIPE,
        lock_digest=lock_digest(),
        hyperparameters=hyperparameters,
        seed=seed,
    )


def train_seed(
    store: Store,
    corpus: Path,
    seed: int,
    hyperparameters: Hyperparameters,
    progress: Callable[[EpochReport], None] = lambda report: None,
) -> Path:
    """Train one seed, or find it trained; returns its folder with `checkpoint` and `curve.json`, which tells how.

    Raises:
        PublishedError: there is no AN4 in `corpus`.
        TrainingError: as `trainer.train`.
    """
    from filelock import FileLock

    from voice_pipeline.store.blobs import write_atomically
    from voice_pipeline.training.checkpoints import CHECKPOINT, STATE, is_complete
    from voice_pipeline.training.provenance import code_commit
    from voice_pipeline.training.trainer import train

    splits = read_splits(corpus)
    spec = spec_of(splits, hyperparameters, seed)
    folder = store.settings.root / "published" / f"{CORPUS}-{spec.digest[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "train.lock"):
        if is_complete(folder / CHECKPOINT, spec.digest) and (folder / "curve.json").exists():
            return folder
        noises, rooms = read_sounds(corpus)
        result = train(spec, splits.train, splits.dev, noises, folder, None, progress, rooms)
        curve = {
            "seed": seed,
            "spec": spec.model_dump(mode="json"),
            "code_commit": code_commit(),
            "best_epoch": result.best_epoch,
            "epochs": [vars(epoch) for epoch in result.epochs],
        }
        write_atomically(folder / "curve.json", json.dumps(curve, indent=1).encode())
        (folder / STATE).unlink(missing_ok=True)
    return folder
