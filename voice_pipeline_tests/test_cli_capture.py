"""What `capture import` says: what is new, what was there, what changed, and that nothing cut short comes in."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from voice_pipeline.cli import main
from voice_pipeline.demo_home import LOCK, MARKER, HomeInUseError, claimed_home


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five recordings of five speakers, and a home that is not there yet."""
    monkeypatch.setenv("VOICE_PIPELINE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(5):
        record(folder, number, seed=number)
    rows = [{"path": f"{number}.wav", "text": "yes", "speaker": f"s{number}"} for number in range(5)]
    (folder / "manifest.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def record(folder: Path, number: int, seed: int) -> None:
    sound = np.random.default_rng(seed).normal(0, 0.1, 8_000).astype(np.float32)
    soundfile.write(folder / f"{number}.wav", sound, 16_000)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["voice-pipeline", "capture", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_an_import_says_what_is_new_what_was_there_and_what_changed(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "import", str(corpus)) == 0
    told = capsys.readouterr().out
    assert told.startswith("5 clips wait in the inbox for ")
    assert "0 were imported before" in told
    assert "changed" not in told
    for number in range(4):
        record(corpus, number, seed=10 + number)
    assert run(monkeypatch, "import", str(corpus)) == 0
    told = capsys.readouterr().out
    assert "0 clips wait in the inbox" in told
    assert "5 were imported before" in told
    assert (
        "4 changed since they were imported, and are left as they are: 0.wav, 1.wav, 2.wav, …; "
        "give a changed recording another path to import it" in told
    )


def test_a_recording_cut_short_keeps_the_import_out(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus / "3.wav").write_bytes((corpus / "3.wav").read_bytes()[:10_000])
    assert run(monkeypatch, "import", str(corpus)) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "3.wav: audio is cut short: its header names 16000 bytes of sound, 9956 are there" in line
    assert run(monkeypatch, "quarantined") == 0
    assert capsys.readouterr().out == "none\n"


@pytest.fixture
def noisy(corpus: Path) -> Path:
    """The corpus with a noise in it."""
    record(corpus, 9, seed=9)
    row = {"path": "9.wav", "source": "ours", "kind": "hum", "license": "CC0", "origin": "test", "split": "train"}
    (corpus / "noise.jsonl").write_text(json.dumps(row))
    return corpus


def test_where_a_demo_runs_nothing_is_imported(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    with claimed_home(home, {}):
        assert run(monkeypatch, "import", str(noisy)) == 1
        assert "in use by voice-pipeline demo" in capsys.readouterr().err
        assert sorted(child.name for child in home.iterdir()) == [MARKER, LOCK]
    assert run(monkeypatch, "import", str(noisy)) == 0
    assert not (home / MARKER).exists()


@pytest.mark.parametrize(
    "while_it", ["capture.noise.import_noise", "demo_home.keep_home", "fleet.importer.import_clips"]
)
def test_no_demo_starts_while_an_import_comes_in(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, while_it: str
) -> None:
    """It cleared the home, and the clips with it."""
    if not while_it.endswith("noise"):  # one that came in would be somebody's work by itself
        (noisy / "noise.jsonl").unlink()
    module, name = while_it.rsplit(".", 1)
    real = getattr(importlib.import_module(f"voice_pipeline.{module}"), name)
    refused: list[str] = []

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        with (
            pytest.raises(HomeInUseError, match="voice-pipeline capture import") as error,
            claimed_home(tmp_path / "home", {}),
        ):
            pass
        refused.append(str(error.value))
        return real(*arguments, **options)

    monkeypatch.setattr(f"voice_pipeline.{while_it}", meanwhile)
    assert run(monkeypatch, "import", str(noisy)) == 0
    assert len(refused) == 1
