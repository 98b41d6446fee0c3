"""MLflow is told everything a run was made of, once, however often it is told; a server by URL is told the same."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from voice_pipeline.schema.training import EvaluationReport, Interval, Latency, SliceResult
from voice_pipeline.store.store import Store
from voice_pipeline.training import tracking
from voice_pipeline.training.planning import Plan, act, read_policy, request_retrain
from voice_pipeline.training.registry import REGISTERED_MODEL, mirror_aliases, register
from voice_pipeline.training.tracking import client_of, dirty_flag
from voice_pipeline_tests.training.catalogue import add_dataset, move

EPOCHS = [
    {"epoch": n, "loss": 3.0 / n, "dev_wer": 1.0 / n, "seconds": 1.0, "audio_s_per_s": 170.0, "learning_rate": 1e-3 / n}
    for n in (1, 2, 3)
]
ELSEWHERE = {"cpu": "of another machine", "threads": "1"}
"""Where the models were trained."""


@pytest.fixture
def plans(store: Store) -> list[Plan]:
    add_dataset(store, 1, clips=300)
    request_retrain(store, "another seed", actor="ann")
    return act(store, read_policy(store))


def report_of(model_version: str) -> EvaluationReport:
    interval = Interval(value=0.25, low=0.2, high=0.3)
    counts = {"clips": 1, "speakers": 1, "words": 4, "substitutions": 1, "deletions": 0, "insertions": 0}
    part = SliceResult(slice="accent:US English (unlabelled)", wer=interval, cer=interval, **counts)
    return EvaluationReport(
        model_version=model_version,
        variant="float",
        suite_id="core-v1",
        suite_digest="a" * 64,
        created_at="2026-11-02T09:00:00Z",
        overall=part.model_copy(update={"slice": "overall"}),
        slices=(part,),
        latency=Latency(p50_ms=1.0, p95_ms=2.0, clips=1, measured_on="host"),
        utterances=(),
    )


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """What a training run leaves."""
    (tmp_path / "checkpoint").mkdir()
    paths = [tmp_path / "learning_curve.png", *(tmp_path / "checkpoint" / n for n in ("model.pt", "tokenizer.json"))]
    for path in paths:
        path.write_bytes(b"x")
    return paths


def artifacts(store: Store, run_id: str, folder: str | None = None) -> set[str]:
    found = client_of(store).list_artifacts(run_id, folder)
    return {a.path for a in found if not a.is_dir} | {
        path for a in found if a.is_dir for path in artifacts(store, run_id, a.path)
    }


def tell_everything(store: Store, plan: Plan, files: list[Path]) -> str:
    run_id = tracking.log_training(store, plan.model_version, plan.spec, EPOCHS, files, ELSEWHERE)
    tracking.log_evaluation(store, report_of(plan.model_version))
    card = files[0].with_name("model_card.md")
    card.write_text("# card")
    register(store, plan.model_version, card)
    return run_id


def check_told(store: Store, plan: Plan, run_id: str) -> None:
    client, spec = client_of(store), plan.spec
    run = client.get_run(run_id)
    assert [m.value for m in client.get_metric_history(run_id, "loss")] == [3.0, 1.5, 1.0]
    assert [m.step for m in client.get_metric_history(run_id, "learning_rate")] == [1, 2, 3]
    assert run.data.metrics["float/wer/accent.US English .unlabelled."] == 0.25
    assert run.data.params["seed"] == str(spec.seed)
    assert run.data.params["learning_rate"] == str(spec.hyperparameters.learning_rate)
    assert run.data.params["feature_schema_version"] == spec.feature_schema_version
    assert run.data.params["dataset_version"] == spec.dataset_version
    told = {
        "owner": store.settings.owner,
        "code_commit": spec.code_commit,
        "code_dirty": dirty_flag(spec.code_commit),
        "lock_digest": spec.lock_digest,
        "spec_digest": spec.digest,
        "feature_service": "clip_features_v1",
        "dvc_md5": f"{1:032d}",
        "env.cpu": "of another machine",
        "env.threads": "1",
    }
    assert told.items() <= run.data.tags.items()
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == (spec.dataset_version, f"{1:032d}")
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]
    assert artifacts(store, run_id) == {
        "learning_curve.png",
        "checkpoint/model.pt",
        "checkpoint/tokenizer.json",
        "spec.json",
        "environment.json",
        "reports/float-core-v1.json",
        "model_card.md",
    }


def test_a_run_holds_everything_once_however_often_it_is_told(
    store: Store, plans: list[Plan], files: list[Path]
) -> None:
    for _ in range(2):
        run_id = tell_everything(store, plans[0], files)
        check_told(store, plans[0], run_id)
    location = client_of(store).get_run(run_id).info.artifact_uri
    assert location.startswith((store.settings.root / "mlflow" / "artifacts").as_uri())
    assert tell_everything(store, plans[1], files) != run_id
    assert len(client_of(store).search_model_versions(f"name = '{REGISTERED_MODEL}'")) == 2


def test_a_curve_that_grew_is_continued_and_a_long_one_is_told_whole(
    store: Store, plans: list[Plan], files: list[Path]
) -> None:
    tracking.log_training(store, plans[0].model_version, plans[0].spec, EPOCHS[:2], files, ELSEWHERE)
    many = [*EPOCHS, *({**EPOCHS[0], "epoch": n} for n in range(4, 400))]
    run_id = tracking.log_training(store, plans[0].model_version, plans[0].spec, many, files, ELSEWHERE)
    history = client_of(store).get_metric_history(run_id, "dev_wer")
    assert sorted(m.step for m in history) == list(range(1, 400))


def test_the_environment_is_the_kept_one_and_an_older_programs_guess_is_taken_back(
    store: Store, plans: list[Plan], files: list[Path]
) -> None:
    told = [{"cpu": "of whoever logged", "threads": "all"}, {"recorded": "no"}]
    for where in told:
        run_id = tracking.log_training(store, plans[0].model_version, plans[0].spec, EPOCHS, files, where)
    tags = client_of(store).get_run(run_id).data.tags
    assert {name: tags[name] for name in tags if name.startswith("env.")} == {"env.recorded": "no"}
    path = client_of(store).download_artifacts(run_id, "environment.json")
    assert json.loads(Path(path).read_text()) == told[1]


@pytest.mark.parametrize(
    ("commit", "flag"), [("abc", "false"), ("abc-dirty-0123", "true"), ("unknown-0123", "unknown")]
)
def test_the_dirty_flag_follows_the_commit(commit: str, flag: str) -> None:
    assert dirty_flag(commit) == flag


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A tracking server of its own on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", url.rsplit(":", 1)[1]]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--workers", "1"]
    command += ["--artifacts-destination", (tmp_path / "served").as_uri()]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (
        (tmp_path / "server.log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            wait_for(f"{url}/health", process, tmp_path / "server.log")
            yield url
        finally:
            os.killpg(process.pid, 15)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-2000:])


@pytest.mark.slow
def test_a_server_by_url_is_told_the_same(
    store: Store, plans: list[Plan], files: list[Path], server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from voice_pipeline.schema.release import ReleaseState

    remote = Store(**{**vars(store), "settings": store.settings.model_copy(update={"mlflow_url": server})})
    run_id = tell_everything(remote, plans[0], files)
    check_told(remote, plans[0], run_id)
    assert json.loads(Path(client_of(remote).download_artifacts(run_id, "spec.json")).read_text())["seed"] == 1
    move(remote, plans[0].model_version, ReleaseState.CANDIDATE, ReleaseState.PRODUCTION)
    mirror_aliases(remote)
    assert client_of(remote).get_model_version_by_alias(REGISTERED_MODEL, "champion").version == "1"
    assert not (store.settings.root / "mlflow" / "mlflow.db").exists()  # nothing went to the embedded one
