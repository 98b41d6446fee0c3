"""Bad input gives one clear line and exit code 1, and leaves nothing half-written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voice_pipeline.cli import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["voice-pipeline", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def recording(folder: Path, rate: int = 16_000, text: str = "yes") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / "a.wav", np.zeros(rate, np.float32), rate)
    row = {"path": "a.wav", "text": text, "speaker": "s"}
    (folder / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    monkeypatch.setenv("VOICE_PIPELINE_HOME", str(path))
    return path


def bad_corpora(folder: Path) -> dict[str, Path]:
    empty, garbled, noise, missing = (folder / name for name in ("empty", "garbled", "noise", "missing"))
    for each in (empty, garbled, noise, missing):
        each.mkdir()
    (empty / "manifest.jsonl").write_text("\n")
    (garbled / "manifest.jsonl").write_text('{"path": "a.wav"\n')
    (noise / "a.wav").write_bytes(b"\x00\x01" * 500)
    (noise / "manifest.jsonl").write_text('{"path": "a.wav", "text": "yes", "speaker": "s"}\n')
    (missing / "manifest.jsonl").write_text('{"path": "b.wav", "text": "yes", "speaker": "s"}\n')
    return {
        "no manifest.jsonl": folder / "absent",
        "lists no recording": empty,
        "line 1": garbled,
        "no readable audio": noise,
        "does not exist": missing,
        "8000 Hz": recording(folder / "slow", rate=8_000),
    }


@pytest.mark.parametrize(
    "words", ["no manifest.jsonl", "lists no recording", "line 1", "no readable audio", "does not exist", "8000 Hz"]
)
def test_a_bad_corpus_is_refused_in_one_line_before_the_home_is_touched(
    words: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bad_corpora(tmp_path)[words]
    assert run(monkeypatch, "demo", "--quick", "--corpus", str(folder)) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert words in lines[0]
    assert not home.exists()


def test_a_home_that_no_demo_made_is_left_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home.mkdir()
    (home / "precious.txt").write_text("mine")
    assert run(monkeypatch, "demo", "--quick") == 1
    assert "choose another with --home" in capsys.readouterr().err
    assert [path.name for path in home.iterdir()] == ["precious.txt"]


def test_a_damaged_database_is_named_and_not_replaced(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home.mkdir()
    (home / "catalogue.db").write_bytes(b"this is no database" * 100)
    assert run(monkeypatch, "lineage", "m-20261101-00000000") == 1
    assert "cannot be read" in capsys.readouterr().err
    assert (home / "catalogue.db").read_bytes() == b"this is no database" * 100


def test_an_unknown_model_is_refused_by_name(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "training", "list") == 1  # no home yet, and asking for it makes none
    assert not (home / "catalogue.db").exists()
    from voice_pipeline.settings import load_settings
    from voice_pipeline.store.store import Store

    Store.open(load_settings(home))
    capsys.readouterr()
    assert run(monkeypatch, "lineage", "m-20261101-00000000") == 1
    assert "m-20261101-00000000" in capsys.readouterr().err


def test_evaluating_an_unknown_model_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from voice_pipeline.settings import load_settings
    from voice_pipeline.store.store import Store

    Store.open(load_settings(home))
    manifest = recording(tmp_path / "corpus") / "manifest.jsonl"
    assert run(monkeypatch, "evaluate", "--model", "m-20261101-00000000", "--manifest", str(manifest)) == 1
    assert "m-20261101-00000000" in capsys.readouterr().err


def test_a_date_that_is_none_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "demo", "--today", "tomorrow") != 0
    assert "tomorrow" in capsys.readouterr().err
    assert not home.exists()


def test_a_home_that_was_only_looked_at_is_free_for_a_demo(home: Path, tmp_path: Path) -> None:
    from voice_pipeline.demo_home import is_free
    from voice_pipeline.settings import load_settings
    from voice_pipeline.store.store import Store

    assert is_free(home)
    Store.open(load_settings(home))
    assert is_free(home)
    (home / "precious.txt").write_text("mine")
    assert not is_free(home)


def test_a_corpus_of_the_new_population_alone_leaves_an_earlier_demo_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from voice_pipeline.demo_home import MARKER

    folder = recording(tmp_path / "digits")
    row = {"path": "a.wav", "text": "yes", "speaker": "s", "corpus": "fsdd"}
    (folder / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    home.mkdir()
    (home / MARKER).write_text("{}")
    (home / "earlier.txt").write_text("told before")
    assert run(monkeypatch, "demo", "--corpus", str(folder)) == 1
    assert "home population" in capsys.readouterr().err
    assert (home / "earlier.txt").exists()


def eight_speakers(folder: Path) -> Path:
    """A corpus of one recording under eight names."""
    recording(folder)
    rows = [{"path": "a.wav", "text": "yes", "speaker": f"s{n}"} for n in range(8)]
    (folder / "manifest.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def test_an_import_makes_a_demo_home_somebodys_own(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from voice_pipeline.demo_home import MARKER

    folder = eight_speakers(tmp_path / "mine")
    home.mkdir()
    (home / MARKER).write_text("{}")
    monkeypatch.setattr(sys, "argv", ["voice-pipeline", "capture", "import", str(folder)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert "8 clips" in capsys.readouterr().out
    assert run(monkeypatch, "demo", "--quick") == 1
    assert "choose another with --home" in capsys.readouterr().err


def test_noise_beside_the_corpus_is_taken_in_or_the_import_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from voice_pipeline.demo_home import MARKER

    folder = eight_speakers(tmp_path / "mine")
    home.mkdir()
    (home / MARKER).write_text("{}")
    (folder / "noise.jsonl").write_text("garbage")
    assert run(monkeypatch, "capture", "import", str(folder)) == 1
    assert "noise.jsonl" in capsys.readouterr().err
    assert (home / MARKER).exists(), "what was refused makes the demo's home nobody's own"
    noise = {"path": "a.wav", "kind": "noise", "category": "hum", "licence": "own"}
    (folder / "noise.jsonl").write_text(json.dumps(noise))
    assert run(monkeypatch, "capture", "import", str(folder)) == 0
    assert "8 clips wait in the inbox" in (told := capsys.readouterr().out)
    assert "1 noises are new" in told


@pytest.mark.parametrize(
    ("name", "value"),
    [("VOICE_PIPELINE_EDGE_PORT", "abc"), ("VOICE_PIPELINE_DATABASE_URL", "nonsense")],
)
def test_a_wrong_setting_is_one_line(
    name: str, value: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert run(monkeypatch, "training", "list") == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["release", "history", "m-20261101-00000000-r1"],
        ["dataset", "checkout", "ds-000000000000"],
        ["bench", "no_such_benchmark"],
        ["bundle", "verify", "no-such-folder"],
    ],
)
def test_an_unknown_name_is_refused_in_one_line(
    arguments: list[str], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from voice_pipeline.settings import load_settings
    from voice_pipeline.store.store import Store

    Store.open(load_settings(home))
    assert run(monkeypatch, *arguments) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_name_is_not_taken_for_a_pseudonym(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from voice_pipeline.settings import load_settings
    from voice_pipeline.store.store import Store

    store = Store.open(load_settings(home))
    assert run(monkeypatch, "capture", "erase", "synthetic:home-2", "me") == 1
    assert "no pseudonym" in capsys.readouterr().err
    assert store.ledger.head() == 0


def test_an_incident_is_closed_once_and_an_unknown_one_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from voice_pipeline.schema.monitoring import Action, IncidentKind
    from voice_pipeline.settings import load_settings
    from voice_pipeline.store.incidents import open_incident, open_incidents
    from voice_pipeline.store.store import Store

    store = Store.open(load_settings(home))
    incident = open_incident(store, IncidentKind.QUALITY, {"day": "1"}, None, Action.OBSERVE, "odd", {})
    arguments = ["monitoring", "close", incident.incident_id, "me", "looked at it"]
    monkeypatch.setattr(sys, "argv", ["voice-pipeline", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert open_incidents(store) == []
    assert run(monkeypatch, *arguments) == 1
    assert "is not open" in capsys.readouterr().err


def test_an_error_of_the_system_names_the_file_and_the_reason(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from voice_pipeline.settings import load_settings
    from voice_pipeline.store.store import Store

    Store.open(load_settings(home))
    folder = f"/{'a' * 300}"
    monkeypatch.setenv("VOICE_PIPELINE_POLICY_DIR", folder)
    assert run(monkeypatch, "repository", "status") == 1
    told = capsys.readouterr().err.strip()
    assert told == f"voice-pipeline: {folder}/delivery.yaml: File name too long"
