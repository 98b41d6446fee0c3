"""The worker trains what was planned, once, in a process of its own; what goes wrong is one line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select

from voice_pipeline.schema.training import TrainingSpec
from voice_pipeline.speech.shape import preset
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import dataset_versions, models
from voice_pipeline.training import worker
from voice_pipeline.training.checkpoints import STATE, checkpoint_digest, write_checkpoint
from voice_pipeline.training.environment import ENVIRONMENT, kept_environment
from voice_pipeline.training.errors import CheckpointMismatchError, PreflightError, UnknownModelError, WorkerFailedError
from voice_pipeline.training.provenance import noise_digest, noise_ids
from voice_pipeline.training.readiness import judge
from voice_pipeline.training.worker import PROGRESS, main, run_worker, train_planned
from voice_pipeline_tests.training.catalogue import add_noise
from voice_pipeline_tests.training.speech_made_of_tones import spec_of

MODEL = "m-20261102-00000000"


def plan(store: Store, dataset_version: str | None = None, **fields: object) -> str:
    known = store.database.scalar(select(dataset_versions.c.dataset_version))
    changes = {"dataset_version": dataset_version or known, "alphabet": " abcdefghijklmnopqrstuvwxyz'"}
    spec = spec_of(**fields).model_copy(update=changes)
    row = {"model_version": MODEL, "spec_digest": spec.digest, "spec": spec.model_dump(mode="json")}
    row |= {"dataset_version": spec.dataset_version, "state": "planned", "cause": {}, "planned_at": "2026-11-02"}
    with store.database.write() as connection:
        connection.execute(models.insert(), row)
    return MODEL


def epochs(store: Store) -> list[int]:
    lines = (store.settings.models / MODEL / PROGRESS).read_text().splitlines()
    return [json.loads(line)["epoch"] for line in lines]


def test_a_planned_model_is_trained_once_and_its_digest_kept(labelled: Store) -> None:
    plan(labelled, max_epochs=1)
    folder = run_worker(labelled, MODEL)
    assert epochs(labelled) == [1]
    trained_on = kept_environment(folder.parent)
    assert {"threads": "1", "processes": "1", "first_epoch": "1"}.items() <= trained_on.items()
    assert trained_on["bfloat16"] in ("yes", "no")
    kept = labelled.database.scalar(select(models.c.checkpoint_sha256).where(models.c.model_version == MODEL))
    assert kept == checkpoint_digest(folder)
    written = (folder / "model.pt").stat().st_mtime_ns
    assert run_worker(labelled, MODEL) == folder
    assert (folder / "model.pt").stat().st_mtime_ns == written


def test_a_checkpoint_that_became_another_is_refused_and_the_kept_digest_stays(labelled: Store) -> None:
    plan(labelled, max_epochs=1)
    folder = run_worker(labelled, MODEL)
    kept = checkpoint_digest(folder)
    weights = folder / "model.pt"
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(CheckpointMismatchError, match=rf"{MODEL} has digest .* but {kept[:12]} was trained"):
        run_worker(labelled, MODEL)
    assert labelled.database.scalar(select(models.c.checkpoint_sha256)) == kept


def test_other_noises_than_were_planned_with_are_refused(labelled: Store) -> None:
    plan(labelled, max_epochs=1)
    with labelled.database.write() as connection:
        row = connection.execute(select(models.c.spec)).scalar_one()
        connection.execute(models.update().values(spec={**row, "noise_digest": noise_digest(noise_ids(labelled))}))
    add_noise(labelled, "0b")
    with pytest.raises(WorkerFailedError, match=r"ChangedNoisesError: .* plan anew"):
        run_worker(labelled, MODEL)


def test_a_worker_that_is_killed_goes_on_from_its_last_epoch_to_the_weights_of_an_undisturbed_run(
    labelled: Store,
) -> None:
    plan(labelled, max_epochs=12)
    judge(labelled, MODEL)
    workdir = labelled.settings.models / MODEL
    progress = workdir / PROGRESS
    command = [sys.executable, "-m", "voice_pipeline.training.worker", MODEL]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        wait_for(progress)
        process.send_signal(signal.SIGKILL)
    weights = (run_worker(labelled, MODEL) / "model.pt").read_bytes()
    assert 2 <= int(kept_environment(workdir)["first_epoch"]) <= 12
    assert epochs(labelled) == list(range(1, 13))
    shutil.rmtree(workdir)
    undisturbed = run_worker(labelled, MODEL)
    assert kept_environment(workdir)["first_epoch"] == "1"
    assert (undisturbed / "model.pt").read_bytes() == weights


def test_two_workers_at_once_train_once(labelled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(labelled, max_epochs=1)
    begun: list[Path] = []

    def train_slowly(store: Store, spec: TrainingSpec, workdir: Path, team: object) -> None:
        begun.append(workdir)
        time.sleep(0.5)  # the other one has come by then
        tokenizer = CharTokenizer(spec.alphabet)
        write_checkpoint(workdir, spec, preset(spec.hyperparameters.preset.value, tokenizer.size), tokenizer, {})

    monkeypatch.setattr(worker, "_train", train_slowly)
    monkeypatch.setattr(worker, "demand", lambda *_: None)
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: train_planned(labelled, MODEL), range(2)))
    assert folders[0] == folders[1]
    assert len(begun) == 1


KILLED_AT_THE_END = """
import os, signal, sys
from voice_pipeline.training import worker
worker.write_atomically = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(worker.main(sys.argv[1:]))
"""


def test_a_worker_killed_after_the_checkpoint_is_tidied_up_behind(
    labelled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(labelled, max_epochs=2)
    judge(labelled, MODEL)
    workdir = labelled.settings.models / MODEL
    command = [sys.executable, "-c", KILLED_AT_THE_END, MODEL]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (workdir / "checkpoint" / "config.json").exists()
    assert (workdir / STATE).exists()
    lines = (workdir / PROGRESS).read_text().splitlines(keepends=True)
    (workdir / PROGRESS).write_text(lines[1])  # as if it had been killed between state and report once before, too
    weights, kept = (workdir / "checkpoint" / "model.pt").stat().st_mtime_ns, (workdir / ENVIRONMENT).read_bytes()
    monkeypatch.setattr(worker, "ensure", lambda *_: pytest.fail("a trained model needs no pre-flight"))
    run_worker(labelled, MODEL)
    assert (workdir / PROGRESS).read_text() == "".join(lines)
    assert not (workdir / STATE).exists()
    assert (workdir / "checkpoint" / "model.pt").stat().st_mtime_ns == weights
    assert (workdir / ENVIRONMENT).read_bytes() == kept
    monkeypatch.setattr(worker, "_run_subprocess", lambda *_: pytest.fail("there is nothing left to do"))
    run_worker(labelled, MODEL)


@pytest.fixture
def in_a_team(labelled: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The labelled home where two processes share the work."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    return Store.open(labelled.settings.model_copy(update={"training_processes": 2}), labelled.clock)


def test_two_processes_train_one_planned_model(in_a_team: Store) -> None:
    plan(in_a_team, max_epochs=1)
    folder = run_worker(in_a_team, MODEL)
    assert epochs(in_a_team) == [1]
    assert kept_environment(folder.parent)["processes"] == "2"


def test_a_team_that_fails_says_why_in_one_line(in_a_team: Store) -> None:
    plan(in_a_team, max_epochs=1)
    with in_a_team.database.write() as connection:
        row = connection.execute(select(models.c.spec)).scalar_one()
        connection.execute(models.update().values(spec={**row, "noise_digest": "0" * 64}))
    with pytest.raises(WorkerFailedError, match=r"ChangedNoisesError: .* plan anew") as refused:
        run_worker(in_a_team, MODEL)
    assert "\n" not in str(refused.value)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 300
    while not (path.exists() and path.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_unknown_model_is_one_line_and_exit_code_one(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownModelError, match="never planned"):
        run_worker(store, MODEL)
    assert main([MODEL]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main([]) == 2


def test_a_dataset_that_is_not_there_is_named_by_the_caller_too(store: Store) -> None:
    plan(store, dataset_version="ds-absent")
    with pytest.raises(PreflightError, match="ds-absent"):
        run_worker(store, MODEL)
    assert not (store.settings.models / MODEL / "checkpoint").exists()


def test_a_parent_that_is_not_there_is_named(store: Store) -> None:
    plan(store, dataset_version="ds-absent")
    with store.database.write() as connection:
        row = connection.execute(select(models.c.spec)).scalar_one()
        connection.execute(models.update().values(spec={**row, "parent_model_version": "m-20260101-ffffffff"}))
    with pytest.raises(PreflightError, match="m-20260101-ffffffff"):
        run_worker(store, MODEL)


@pytest.mark.parametrize(("set_by_someone", "expected"), [(None, "1"), ("3", "3")])
def test_a_second_blas_thread_does_not_wait_beside_the_training_one(
    set_by_someone: str | None, expected: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "OPENBLAS_NUM_THREADS"
    monkeypatch.delenv(name, raising=False)
    if set_by_someone:
        monkeypatch.setenv(name, set_by_someone)
    started: list[dict[str, str]] = []
    real = subprocess.Popen

    def note(command: list[str], env: dict[str, str], **others: object) -> object:
        started.append(env)
        return real([sys.executable, "-c", ""], env=env, **others)  # type: ignore[call-overload]

    monkeypatch.setattr(worker.subprocess, "Popen", note)
    worker._run_subprocess(store, MODEL)
    assert [env[name] for env in started] == [expected]
