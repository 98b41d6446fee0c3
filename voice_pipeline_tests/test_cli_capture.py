"""What `capture import` says: what is new, what was there, what changed, and that nothing cut short comes in."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voice_pipeline.cli import main


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
