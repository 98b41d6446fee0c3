"""`voice-pipeline wake-words` on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voice_pipeline.cli import main
from voice_pipeline.store.store import Store
from voice_pipeline_tests.evaluation.conftest import checkpoint

__all__ = ["checkpoint"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["voice-pipeline", "wake-words", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture
def policy(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An evaluation policy with one wake word, in a folder of its own."""
    monkeypatch.setenv("VOICE_PIPELINE_POLICY_DIR", str(tmp_path / "policy"))
    path = tmp_path / "policy" / "evaluation.yaml"
    path.parent.mkdir()
    path.write_text("wake_words: {phrases: [hey bob]}\n")
    return path


def recordings(folder: Path, text: str, count: int) -> str:
    """The manifest of `count` recordings of a second of noise each that are said to say `text`."""
    folder.mkdir()
    sounds = np.random.default_rng(0).normal(0, 0.1, (count, 16_000)).astype(np.float32)
    for number, sound in enumerate(sounds):
        soundfile.write(folder / f"{number}.wav", sound, 16_000)
    rows = [{"path": f"{number}.wav", "text": text, "speaker": f"s{number}"} for number in range(count)]
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_detections_and_alarms_are_told_and_written(
    checkpoint: str, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said, speech, noise = (
        recordings(tmp_path / name, text, 4) for name, text in (("p", "hey bob"), ("s", "yes"), ("n", ""))
    )
    arguments = ["--model", checkpoint, "--positives", said, "--negatives", speech, "--negatives", noise]
    assert run(monkeypatch, *arguments, "--json", str(tmp_path / "out" / "found.json")) == 0
    head, _, line = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("| wake word | threshold on | detected (95 %) | false alarms |")
    (found,) = json.loads((tmp_path / "out" / "found.json").read_text())
    assert (found["phrase"], found["calibration_clips"], found["positives"]) == ("hey bob", 2, 2)
    assert found["negative_hours"] == pytest.approx(8 / 3600)  # both manifests
    assert line.startswith(f"| hey bob | 2 clips | {found['detection']['value']:.0%} of 2 (")
    assert f"| {found['false_alarms']} |" in line


def test_bad_input_is_one_line_and_exit_code_1(
    checkpoint: str, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said, speech = recordings(tmp_path / "p", "hey bob", 2), recordings(tmp_path / "s", "yes", 1)
    absent = str(tmp_path / "absent.jsonl")
    wrong = {
        "m-20261101-00000000": ("m-20261101-00000000", said, speech),
        "absent.jsonl": (checkpoint, absent, speech),
        "line 1 has no 'path'": (checkpoint, said, str(tmp_path / "bad.jsonl")),
    }
    (tmp_path / "bad.jsonl").write_text('{"text": "yes"}\n')
    for told, (model, positives, negatives) in wrong.items():
        arguments = ["--model", model, "--positives", positives, "--negatives", negatives]
        assert run(monkeypatch, *arguments, "--json", str(tmp_path / "found.json")) == 1
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert not (tmp_path / "found.json").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("wake_words: {phrases: []}\n", "names no wake word; add some to wake_words: phrases"),
        ("wake_words: {phrases: [Alexa]}\n", "evaluation.yaml is not valid: wake_words"),
    ],
)
def test_wake_words_that_cannot_be_looked_for_are_one_line_and_exit_code_1(
    checkpoint: str,
    policy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str,
    told: str,
) -> None:
    policy.write_text(content)
    said, speech = recordings(tmp_path / "p", "hey bob", 2), recordings(tmp_path / "s", "yes", 1)
    assert run(monkeypatch, "--model", checkpoint, "--positives", said, "--negatives", speech) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
