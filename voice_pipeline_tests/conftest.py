"""Fixtures that every test folder shares: a store in an empty home on a clock that stands still."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from voice_pipeline.settings import PROJECT_ROOT, QUIET, load_settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store

os.environ.update(QUIET)
os.environ["VOICE_PIPELINE_SUBJECT_SALT"] = "voice-pipeline-local-subjects"  # one draw of devices in every home

CORPUS = PROJECT_ROOT.parent / "shared" / "corpora"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 11, 2, 9, tzinfo=UTC))


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Store:
    home = tmp_path / "home"
    monkeypatch.setenv("VOICE_PIPELINE_HOME", str(home))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc-site-cache"))
    return Store.open(load_settings(home), clock)


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Real recordings; tests that need them are skipped where they are absent."""
    if not (CORPUS / "manifest.jsonl").exists():
        pytest.skip("needs the recordings in ../shared/corpora, which are not part of the project")
    return CORPUS


@pytest.fixture(scope="session")
def story_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the quick story was told on synthesised voices, through the command line; told once a session."""
    folder = tmp_path_factory.mktemp("story") / "home"
    command = [sys.executable, "-m", "voice_pipeline.cli", "demo", "--quick", "--home", str(folder), "--seed", "1"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, (told.stdout + told.stderr)[-4000:]
    return folder
