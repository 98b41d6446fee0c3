"""Trains one planned model in a process of its own: `python -m voice_pipeline.training.worker MODEL_VERSION`.

Promises: the caller's memory and thread pools stay its own; a worker that is killed is simply started again and goes on
from its last finished epoch; two workers for one model never train at once (the second waits and finds the work done);
a failure is one line on standard error and exit code 1. Every epoch is one JSON line in
`<models>/<model_version>/progress.jsonl`; `environment.json` beside it says where the model was trained.
`VOICE_PIPELINE_TRAINING_PROCESSES` above one starts that many under `torchrun` on this machine; for several machines
start `torchrun … -m voice_pipeline.training.worker` yourself.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from voice_pipeline.evaluation.noises import load_noises, load_rooms
from voice_pipeline.schema.dataset import Split
from voice_pipeline.schema.training import TrainingSpec
from voice_pipeline.settings import load_settings
from voice_pipeline.speech.errors import SpeechError
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.errors import StoreError
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import models
from voice_pipeline.training.checkpoints import CHECKPOINT, STATE, checkpoint_digest, is_complete, load_state
from voice_pipeline.training.data import open_utterances
from voice_pipeline.training.environment import ONE_BLAS_THREAD, keep_environment
from voice_pipeline.training.errors import (
    ChangedNoisesError,
    CheckpointMismatchError,
    TrainingError,
    UnknownModelError,
    WorkerFailedError,
)
from voice_pipeline.training.provenance import noise_digest, noise_ids
from voice_pipeline.training.readiness import demand, ensure, home_environment, planned_spec

if TYPE_CHECKING:
    from voice_pipeline.training.team import Team
    from voice_pipeline.training.trainer import EpochReport

PROGRESS = "progress.jsonl"
LOCK = "train.lock"
TOLD = "training worker: "
"""Begins the one line in which a worker says why it failed."""


def run_worker(store: Store, model_version: str) -> Path:
    """Train `model_version` in a subprocess and wait; a model that is trained already is returned at once.

    Where a worker was killed after it wrote the checkpoint, another tidies up behind it: no pre-flight, no training.

    Returns:
        The checkpoint folder. Its digest is kept as `checkpoint_sha256` of the model in the catalogue.

    Raises:
        UnknownModelError: it was never planned.
        PreflightError: this machine or this data is not ready for it; every reason is named.
        WorkerFailedError: the worker's one line says why. Calling again resumes.
        CheckpointMismatchError: the checkpoint is not the one whose digest is kept.
    """
    spec = planned_spec(store, model_version)
    workdir = store.settings.models / model_version
    folder = workdir / CHECKPOINT
    complete = is_complete(folder, spec.digest)
    if not complete:
        ensure(store, model_version)
    if not complete or (workdir / STATE).exists():
        _run_subprocess(store, model_version)
    _keep_digest(store, model_version, folder)
    return folder


def _keep_digest(store: Store, model_version: str, folder: Path) -> None:
    """Keep the digest of a finished checkpoint, once: from then on it says what the weights of this model are."""
    digest = checkpoint_digest(folder)
    this = models.c.model_version == model_version
    with store.database.write() as connection:
        kept = connection.execute(select(models.c.checkpoint_sha256).where(this)).scalar_one()
        if kept is None:
            connection.execute(update(models).where(this).values(checkpoint_sha256=digest))
        elif kept != digest:
            raise CheckpointMismatchError(
                f"checkpoint {folder} of {model_version} has digest {digest[:12]}, but {kept[:12]} was trained; "
                "restore that one from a backup, or ask for a new model: voice-pipeline training request"
            )


def _run_subprocess(store: Store, model_version: str) -> None:
    home = store.settings
    environment = {**ONE_BLAS_THREAD, **os.environ, **home_environment(home)}
    command = [sys.executable]
    if home.training_processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={home.training_processes}"]
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // home.training_processes)))
    command += ["-m", "voice_pipeline.training.worker", model_version]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            _, errors = process.communicate()
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        told = [line for line in errors.splitlines() if TOLD in line]  # torchrun writes a page of its own behind it
        lines = told or errors.strip().splitlines() or ["no message"]
        how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        why = lines[-1].removeprefix(TOLD)
        raise WorkerFailedError(f"training of {model_version} ended with {how}: {why}; run it again to resume")


def train_planned(store: Store, model_version: str) -> Path:
    """Train `model_version` in this process, and in those that share the work; returns the checkpoint folder.

    Raises:
        TrainingError, SpeechError, StoreError: as `trainer.train` and the readers of the dataset.
    """
    from filelock import FileLock

    from voice_pipeline.training.team import Team

    spec = planned_spec(store, model_version)
    workdir = store.settings.models / model_version
    workdir.mkdir(parents=True, exist_ok=True)
    team = Team.join()
    try:
        with FileLock(workdir / LOCK) if team.leads else nullcontext():
            complete = is_complete(workdir / CHECKPOINT, spec.digest)
            if team.leads and not complete:
                demand(store, model_version)
            if not team.from_leader(complete):
                _train(store, spec, workdir, team)
            if team.leads:
                _settle(spec, workdir)
    finally:
        team.leave()
    return workdir / CHECKPOINT


def _train(store: Store, spec: TrainingSpec, workdir: Path, team: Team) -> None:
    from voice_pipeline.training.trainer import train

    _check_sounds(store, spec)
    progress = workdir / PROGRESS
    if team.leads and not (workdir / STATE).exists():
        progress.unlink(missing_ok=True)

    def report(epoch: EpochReport) -> None:
        with progress.open("a") as file:
            file.write(json.dumps(asdict(epoch)) + "\n")

    train(
        spec,
        open_utterances(store, spec.dataset_version, Split.TRAIN),
        open_utterances(store, spec.dataset_version, Split.DEV),
        load_noises(store),
        workdir,
        _parent(store, spec),
        report,
        load_rooms(store),
        partial(keep_environment, workdir),
    )


def _settle(spec: TrainingSpec, workdir: Path) -> None:
    """Make `progress.jsonl` what the state of a finished run says, then remove the state. Safe to repeat after a kill.

    A kill between state and report loses a line, one within a report leaves a part of it: the history knows.
    """
    state = load_state(workdir, spec.digest)
    if state is None:
        return
    lines = (json.dumps({**epoch, "epoch": int(epoch["epoch"])}) + "\n" for epoch in state.history)
    write_atomically(workdir / PROGRESS, "".join(lines).encode())
    (workdir / STATE).unlink()


def _check_sounds(store: Store, spec: TrainingSpec) -> None:
    """Exactly the noises and rooms that were planned with; a spec from before they were kept takes what is there.

    Raises:
        ChangedNoisesError: others are in the store now.
    """
    ids = noise_ids(store)
    if spec.noise_digest and noise_digest(ids) != spec.noise_digest:
        raise ChangedNoisesError(
            f"spec {spec.digest[:8]} was planned with noises {spec.noise_digest[:12]}, in the store are now {len(ids)} "
            f"with digest {noise_digest(ids)[:12]}; plan anew: voice-pipeline training request"
        )


def _parent(store: Store, spec: TrainingSpec) -> Path | None:
    if spec.parent_model_version is None:
        return None
    folder = store.settings.models / spec.parent_model_version / CHECKPOINT
    if not folder.exists():
        raise UnknownModelError(f"parent {spec.parent_model_version} has no checkpoint in this home; train it first")
    return folder


def main(arguments: list[str]) -> int:
    """Exit code of the worker: 0 trained, 1 failed, 2 called wrongly."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m voice_pipeline.training.worker MODEL_VERSION\n")
        return 2
    logging.basicConfig(level=logging.WARNING)
    try:
        train_planned(Store.open(load_settings()), arguments[0])
    except (TrainingError, SpeechError, StoreError, OSError, MemoryError) as error:
        sys.stderr.write(f"{TOLD}{type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
