"""Training one seed of the comparison."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voice_pipeline.published.corpus import CORPUS, PublishedError, Splits, read_sounds, read_splits, sounds_digest
from voice_pipeline.schema.policy_file import load_policy
from voice_pipeline.schema.retrain_policy import RetrainPolicy
from voice_pipeline.schema.training import Hyperparameters, TrainingSpec
from voice_pipeline.speech.audio import SAMPLE_RATE, Samples
from voice_pipeline.store.store import Store

if TYPE_CHECKING:
    from voice_pipeline.training.environment import Compute
    from voice_pipeline.training.trainer import EpochReport

RECIPE = "an4-6"
"""Part of every spec; change it to train anew after a change of the trainer that is meant to change results."""
CURVE, COMMITS = "curve.json", "commits.json"


def spec_of(splits: Splits, noise_digest: str, hyperparameters: Hyperparameters, seed: int) -> TrainingSpec:
    """The spec of one seed. Its code is `RECIPE`, so that a commit elsewhere does not ask for hours of training."""
    from voice_pipeline.training.provenance import lock_digest

    return TrainingSpec(
        dataset_version=f"{CORPUS}-{splits.version}",
        feature_schema_version="none",
        code_commit=RECIPE,
        lock_digest=lock_digest(),
        hyperparameters=hyperparameters,
        seed=seed,
        noise_digest=noise_digest,
    )


def train_seed(
    store: Store,
    corpus: Path,
    seed: int,
    hyperparameters: Hyperparameters,
    progress: Callable[[EpochReport], None] = lambda report: None,
) -> Path:
    """Train one seed, or find it trained; returns its folder with `checkpoint` and `curve.json`, which tells how and
    with which code.

    Raises:
        PublishedError: there is no AN4 in `corpus`, or the pre-flight does not pass.
        TrainingError: as `trainer.train`.
    """
    from filelock import FileLock

    from voice_pipeline.store.blobs import write_atomically
    from voice_pipeline.training.checkpoints import CHECKPOINT, STATE, is_complete
    from voice_pipeline.training.provenance import code_commit
    from voice_pipeline.training.trainer import keep_kernels, train

    keep_kernels()
    commit = code_commit()  # before a run of half an hour, in which the tree may move on
    splits = read_splits(corpus)
    spec = spec_of(splits, sounds_digest(corpus), hyperparameters, seed)
    folder = store.settings.root / "published" / f"{CORPUS}-{spec.digest[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "train.lock"):
        if is_complete(folder / CHECKPOINT, spec.digest) and (folder / CURVE).exists():
            return folder
        noises, rooms = read_sounds(corpus, "noise"), read_sounds(corpus, "rir")
        _demand(store, spec, splits, [*noises, *rooms])

        def begun(_: Compute) -> None:
            _name_commit(folder, commit)

        result = train(spec, splits.train, splits.dev, noises, folder, None, progress, rooms, begun)
        curve = {
            "seed": seed,
            "spec": spec.model_dump(mode="json"),
            "code_commits": _named_commits(folder),
            "best_epoch": result.best_epoch,
            "epochs": [vars(epoch) for epoch in result.epochs],
        }
        write_atomically(folder / CURVE, json.dumps(curve, indent=1).encode())
        (folder / STATE).unlink(missing_ok=True)
    return folder


def commits_of(curve: Mapping[str, Any]) -> tuple[str, ...]:
    """Commits of the code that trained a seed, in turn, as its `curve.json` has them; an older one names the last."""
    return tuple(curve["code_commits"] if "code_commits" in curve else [curve["code_commit"]])


def _name_commit(folder: Path, commit: str) -> None:
    """Keep beside the state that code of this commit now trains a part. One that is killed within its first epoch stays
    named too, unless that was the seed's first: from nothing, nobody else had a part in it.
    """
    from voice_pipeline.store.blobs import write_atomically
    from voice_pipeline.training.checkpoints import STATE

    earlier = _named_commits(folder) if (folder / STATE).exists() else []
    if earlier[-1:] != [commit]:
        write_atomically(folder / COMMITS, json.dumps([*earlier, commit]).encode())


def _named_commits(folder: Path) -> list[str]:
    """What `_name_commit` kept; of a state that older code left nobody knows."""
    from voice_pipeline.training.provenance import UNKNOWN

    kept = folder / COMMITS
    return list(json.loads(kept.read_bytes())) if kept.exists() else [UNKNOWN]


def _demand(store: Store, spec: TrainingSpec, splits: Splits, sounds: Sequence[Samples]) -> None:
    """The pre-flight of a run that no plan and no catalogue knows: memory, disk, and a few clips learnt by heart.

    Raises:
        PublishedError: this machine or this corpus is not ready; every reason is named.
    """
    from voice_pipeline.training.preflight import Load, check_learning_by_heart, check_room

    limits = load_policy(store.settings.policy_dir / "retrain.yaml", RetrainPolicy).preflight
    counts = [*splits.train.sample_counts, *splits.dev.sample_counts]
    load = Load(counts, sum(sound.size for sound in sounds) / SAMPLE_RATE, 1)
    room = check_room(store.settings.root, spec, limits, lambda: load)
    findings = [*room, *check_learning_by_heart(lambda: splits.train, spec, limits)]
    failed = [f"{finding.name}: {finding.detail}" for finding in findings if not finding.passed]
    if failed:
        raise PublishedError(f"seed {spec.seed} is not trained: {'; '.join(failed)}")
