"""What lies in a home that is not a demo's is somebody's: no demo starts it over and no `make clean` removes it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import insert

from voice_pipeline.demo_home import MARKER, HomeInUseError, claim_home, is_free, keep_home
from voice_pipeline.settings import PROJECT_ROOT, load_settings
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import inbox
from voice_pipeline_tests.capture.clips import capture, tone

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def handed_in(home: Path) -> None:
    """A clip waits in the inbox of `home`."""
    from voice_pipeline.capture.intake import accept

    accept(Store.open(load_settings(home)), capture(1), tone(1))


def clean(folder: Path, binaries: Path = Path(sys.executable).parent) -> subprocess.CompletedProcess[str]:
    """`make clean` in `folder`, which has no virtual environment of its own."""
    command = ["make", "-C", str(folder), "-f", str(PROJECT_ROOT / "Makefile"), "clean", f"BIN={binaries}"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_demo_takes_a_free_home_and_no_other(tmp_path: Path) -> None:
    home = tmp_path / "home"
    claim_home(home, {"seed": 1})
    (home / "told").mkdir()
    claim_home(home, {"seed": 2})
    assert [child.name for child in home.iterdir()] == [MARKER]
    handed_in(home)
    keep_home(home)
    assert not is_free(home)
    with pytest.raises(HomeInUseError, match="not a demo's"):
        claim_home(home, {"seed": 1})
    assert (home / "catalogue.db").exists()


def test_a_home_in_which_an_event_waits_is_somebodys(tmp_path: Path) -> None:
    store = Store.open(load_settings(tmp_path / "home"))
    assert is_free(tmp_path / "home")
    row = {"event_id": "e", "clip_id": "c", "capture_date": "2026-11-01", "received_at": "now", "event": {}}
    row |= {"blob_key": "", "sha256": "", "size": 0, "state": "new"}
    with store.database.write() as connection:
        connection.execute(insert(inbox).values(**row))
    assert not is_free(tmp_path / "home")


@needs_make
def test_clean_removes_a_demos_home_and_one_that_was_only_opened(tmp_path: Path) -> None:
    home = tmp_path / ".voice_pipeline"
    assert clean(tmp_path).returncode == 0
    claim_home(home, {"seed": 1})
    (home / "blobs").mkdir()
    assert clean(tmp_path).returncode == 0
    assert not home.exists()
    Store.open(load_settings(home))
    assert clean(tmp_path).returncode == 0
    assert not home.exists()


@needs_make
def test_clean_refuses_a_home_with_somebodys_clips_and_says_what_to_do(tmp_path: Path) -> None:
    home = tmp_path / ".voice_pipeline"
    handed_in(home)
    (tmp_path / ".pytest_cache").mkdir()
    refused = clean(tmp_path)
    assert refused.returncode != 0
    assert "holds work that is not a demo's" in refused.stderr
    assert "VOICE_PIPELINE_HOME" in refused.stderr
    assert (home / "catalogue.db").exists()
    assert (tmp_path / ".pytest_cache").exists()


@needs_make
def test_clean_that_cannot_look_into_a_home_leaves_it(tmp_path: Path) -> None:
    (tmp_path / ".voice_pipeline").mkdir()
    refused = clean(tmp_path, binaries=tmp_path / "absent")
    assert refused.returncode != 0
    assert "nothing was removed" in refused.stdout
    assert (tmp_path / ".voice_pipeline").exists()


@needs_make
@pytest.mark.parametrize(("argument", "told"), [([], "dev"), (["PORT=3001"], "dev --port 3001")])
def test_the_port_of_the_ui_can_be_chosen(argument: list[str], told: str) -> None:
    command = ["make", "-C", str(PROJECT_ROOT), "-n", "dev", *argument]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.strip().splitlines()[-2 if "Leaving" in said else -1].rstrip().endswith(f"voice-pipeline {told}")
