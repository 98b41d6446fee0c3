"""A command that only reads makes no home, however its name was typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voice_pipeline import cli_dev
from voice_pipeline.benchmarks import BENCHMARKS, Benchmark
from voice_pipeline.demo_home import LOCK
from voice_pipeline.settings import load_settings
from voice_pipeline.store.store import Store
from voice_pipeline_tests.command_line import run

MODEL = "m-20261101-00000000"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mistyped"
    monkeypatch.setenv("VOICE_PIPELINE_HOME", str(path))
    return path


def manifest(folder: Path) -> str:
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.zeros(16_000, np.float32), 16_000)
    (folder / "manifest.jsonl").write_text(json.dumps({"path": "a.wav", "text": "yes", "speaker": "s"}) + "\n")
    return str(folder / "manifest.jsonl")


@pytest.mark.parametrize("against", [[], ["--against", MODEL]])
def test_evaluating_in_a_home_that_is_not_there_says_so_and_makes_none(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], against: list[str]
) -> None:
    model = str(tmp_path) if against else MODEL
    arguments = ["--model", model, "--manifest", manifest(tmp_path / "c"), *against]
    assert run(monkeypatch, "evaluate", *arguments) == 1
    assert f"home {home} holds no catalogue yet" in capsys.readouterr().err
    assert not home.exists()


def test_wake_words_in_a_home_that_is_not_there_say_so_and_make_none(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = manifest(tmp_path / "c")
    assert run(monkeypatch, "wake-words", "--model", MODEL, "--positives", said, "--negatives", said) == 1
    assert f"home {home} holds no catalogue yet" in capsys.readouterr().err
    assert not home.exists()


def test_a_bundle_folder_needs_no_home(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(tmp_path), "--manifest", manifest(tmp_path / "c")]
    assert run(monkeypatch, "evaluate", *arguments) == 1
    assert "catalogue" not in (told := capsys.readouterr().err)
    assert str(tmp_path) in told  # it is no bundle: that is what is wrong
    assert not home.exists()


READING, HOLDING = (["lineage", MODEL], ["release", "status"]), (["edge", "serve"], ["dev", "daemon"])


@pytest.mark.parametrize(
    ("command", "refused"),
    [
        *((command, "dagster") for command in (*READING, *HOLDING)),
        *((command, LOCK) for command in HOLDING),
        *((command, "") for command in HOLDING),
    ],
)
def test_a_home_that_the_system_refuses_is_told_in_one_line_with_its_path_and_what_to_do(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str], refused: str
) -> None:
    """A folder where a file belongs, or the other way round, is refused to root too."""
    if refused:
        Store.open(load_settings(home)).database.engine.dispose()
    (home / refused).mkdir() if refused == LOCK else (home / refused).touch()
    monkeypatch.setattr(cli_dev, "run_until_stopped", lambda *_: pytest.fail("started"))
    assert run(monkeypatch, *command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"voice-pipeline: home {home} cannot be used ({home / refused}: ")
    assert "--home or VOICE_PIPELINE_HOME" in line
    assert "Errno" not in line


def test_a_policy_is_explained_without_a_home(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "policy", "explain", "release") == 0
    assert capsys.readouterr().out.startswith("# How a model comes to devices")
    assert not home.exists()


def test_a_bench_that_measured_nothing_fails_and_one_that_measured_something_does_not(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "bench", "train_peak_mb") == 1
    told = capsys.readouterr()
    assert "train_peak_mb: not measured: it needs recordings" in told.out
    assert "nothing was measured" in told.err
    monkeypatch.setitem(BENCHMARKS, "made_up", Benchmark("s", 1.0, lambda *_: (0.5, 1)))
    assert run(monkeypatch, "bench", "train_peak_mb", "made_up") == 0
