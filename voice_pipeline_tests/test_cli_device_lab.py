"""`voice-pipeline device-lab` and `evaluate --against` on the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import bundles
from voice_pipeline_tests.command_line import run
from voice_pipeline_tests.evaluation.conftest import checkpoint

__all__ = ["checkpoint"]

MODEL, DIGEST = "m-20261102-aaaaaaaa", "d" * 64


@pytest.fixture
def lab_file(store: Store, tmp_path: Path) -> Path:
    """A report on the one bundle that the home's catalogue has, timed just now."""
    row = {"bundle_digest": DIGEST, "model_version": MODEL, "uri": "bundle", "manifest": {}, "size": 1}
    now = datetime.now(UTC).isoformat()
    with store.database.write() as connection:
        connection.execute(bundles.insert(), {**row, "created_at": now})
    report = {
        "device_class": "laptop",
        "device_model": "X1",
        "os": "Linux 6",
        "runtime": "onnxruntime 1.31",
        "threads": 1,
    }
    report |= {
        "bundle_digest": DIGEST,
        "clips": 50,
        "p50_ms": 5.0,
        "p95_ms": 9.0,
        "p99_ms": 12.0,
        "peak_memory_mb": 60.0,
    }
    path = tmp_path / "x1.json"
    path.write_text(json.dumps({**report, "measured_at": now}))
    return path


def test_a_lab_report_is_imported_and_shown(
    lab_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "device-lab", "import", str(lab_file)) == 0
    assert capsys.readouterr().out == f"{MODEL}: laptop p95 9.0 ms on X1 kept\n"
    assert run(monkeypatch, "device-lab", "show", MODEL) == 0
    assert "laptop      p50 5.0  p95 9.0  p99 12.0 ms  60 MB  X1, Linux 6" in capsys.readouterr().out
    assert run(monkeypatch, "device-lab", "show", "m-20261102-bbbbbbbb") == 0
    assert "no device-lab report on the bundle of m-20261102-bbbbbbbb" in capsys.readouterr().out


def test_a_bad_lab_report_is_one_line_and_exit_code_1(
    lab_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab_file.write_text(lab_file.read_text().replace(DIGEST, "e" * 64))
    assert run(monkeypatch, "device-lab", "import", str(lab_file)) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "x1.json is about bundle eeeeeeeeeeee" in told
    assert run(monkeypatch, "device-lab", "import", str(lab_file.with_name("absent.json"))) == 1
    assert "absent.json" in capsys.readouterr().err


def test_a_home_that_was_never_used_is_not_made_by_a_lab_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "device-lab", "show", MODEL, "--home", str(tmp_path / "unused")) == 1
    assert "holds no catalogue yet" in capsys.readouterr().err
    assert not (tmp_path / "unused").exists()


def test_evaluate_shows_worst_words_and_compares_in_pairs(
    store: Store, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", sound, 16_000)
    (tmp_path / "list.jsonl").write_text(json.dumps({"path": "a.wav", "text": "yes please", "speaker": "s"}))
    manifest = str(tmp_path / "list.jsonl")
    assert run(monkeypatch, "evaluate", "--model", checkpoint, "--manifest", manifest, "--against", checkpoint) == 0
    told = capsys.readouterr().out
    assert "overall ⚠" in told  # one clip of one speaker
    assert "| please | 1 |" in told
    assert f"paired with {checkpoint}:" in told
    assert "+0.0% (+0.0% to +0.0%)" in told
    assert "measured on host" in told
