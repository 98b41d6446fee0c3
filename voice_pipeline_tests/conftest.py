"""Fixtures that every test folder shares: a store in an empty home on a clock that stands still."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from filelock import FileLock

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
    """A home in which the quick story was told on synthesised voices, through the command line; told once a session,
    also where several processes share the tests (https://pytest-xdist.readthedocs.io/en/stable/how-to.html).
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return told(tmp_path_factory.mktemp("story") / "home")
    shared = tmp_path_factory.getbasetemp().parent / "story"
    with FileLock(f"{shared}.lock"):
        return shared / "home" if shared.exists() else told(shared / "home")


def told(home: Path) -> Path:
    command = [sys.executable, "-m", "voice_pipeline.cli", "demo", "--quick", "--home", str(home), "--seed", "1"]
    story = subprocess.run(command, capture_output=True, text=True, check=False)
    assert story.returncode == 0, (story.stdout + story.stderr)[-4000:]
    return home
