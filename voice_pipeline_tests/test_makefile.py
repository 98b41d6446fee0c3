"""`make clean` removes a demo's home and nobody's work, and follows no link out of a home; `make dev` takes a port."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

from voice_pipeline import demo_home
from voice_pipeline.demo_home import LOCK, MARKER, HomeInUseError, is_free, served_home
from voice_pipeline.release.controller import tick
from voice_pipeline.release.people.enrolment import enrol
from voice_pipeline.release.policy import release_policy
from voice_pipeline.settings import PROJECT_ROOT, load_settings
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import telemetry
from voice_pipeline_tests.test_demo_home import claim, handed_in

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def clean(
    folder: Path, binaries: Path = Path(sys.executable).parent, **variables: str
) -> subprocess.CompletedProcess[str]:
    """`make clean` in `folder`, which has no virtual environment of its own."""
    command = ["make", "-C", str(folder), "-f", str(PROJECT_ROOT / "Makefile"), "clean", f"BIN={binaries}"]
    environment = {name: value for name, value in os.environ.items() if name != "VOICE_PIPELINE_HOME"}
    environment |= {"PYTHONPATH": str(PROJECT_ROOT), **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def dear(tmp_path: Path) -> Path:
    """A folder of somebody's, outside of any home, with a file in it."""
    (tmp_path / "dear").mkdir()
    (tmp_path / "dear" / "letter").write_text("dear")
    return tmp_path / "dear"


@pytest.mark.parametrize("cleared_by", [claim, demo_home.main])
def test_a_link_in_a_home_is_removed_and_what_it_leads_to_is_not(
    tmp_path: Path, dear: Path, cleared_by: Callable[[Path], object]
) -> None:
    home = tmp_path / "home"
    claim(home)
    (home / "bundles").mkdir()
    for link, target in (("blobs", dear), ("bundles/deep", dear), ("letter", dear / "letter"), ("gone", dear / "none")):
        (home / link).symlink_to(target)
    assert cleared_by(home) in (None, 0)
    assert not home.exists() or sorted(child.name for child in home.iterdir()) == [MARKER, LOCK]
    assert (dear / "letter").read_text() == "dear"


@needs_make
def test_of_a_home_that_is_a_link_the_folder_is_cleaned_away(tmp_path: Path, dear: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / ".voice_pipeline").symlink_to(tmp_path / "disk")
    claim(load_settings(tmp_path / ".voice_pipeline").root)
    (tmp_path / "disk" / "blobs").symlink_to(dear)
    assert clean(tmp_path).returncode == 0
    assert not (tmp_path / "disk").exists()
    assert (dear / "letter").exists()
    assert clean(tmp_path).returncode == 0
    claim(load_settings(tmp_path / ".voice_pipeline").root)
    assert (tmp_path / "disk" / MARKER).exists()


@needs_make
def test_somebodys_home_that_is_a_link_is_left_alone(tmp_path: Path, dear: Path) -> None:
    (tmp_path / ".voice_pipeline").symlink_to(dear)
    refused = clean(tmp_path)
    assert refused.returncode != 0
    assert f"{dear} holds work that is not a demo's" in refused.stderr
    assert (dear / "letter").exists()


@needs_make
@pytest.mark.parametrize("filled", [True, False])
def test_clean_says_which_home_it_leaves_alone(tmp_path: Path, filled: bool) -> None:
    other = tmp_path / "other home"
    if filled:
        claim(tmp_path / ".voice_pipeline")
        claim(other)
    cleaned = clean(tmp_path, VOICE_PIPELINE_HOME=str(other))
    assert cleaned.returncode == 0
    assert f"make clean: home {other} (VOICE_PIPELINE_HOME) is left alone" in cleaned.stdout
    assert other.exists() is filled
    assert not (tmp_path / ".voice_pipeline").exists()


@needs_make
@pytest.mark.parametrize("filled", [True, False])
def test_clean_says_nothing_of_the_home_that_it_cleans(tmp_path: Path, filled: bool) -> None:
    home = tmp_path / ".voice_pipeline"
    (tmp_path / "alias").symlink_to(tmp_path)
    same = [{}, {"VOICE_PIPELINE_HOME": str(home)}, {"VOICE_PIPELINE_HOME": ".voice_pipeline"}]
    same += [{"VOICE_PIPELINE_HOME": str(tmp_path / "alias" / ".voice_pipeline")}] if filled else []
    for variables in same:
        if filled:
            claim(home)
        cleaned = clean(tmp_path, **variables)
        assert cleaned.returncode == 0
        assert "left alone" not in cleaned.stdout
        assert not home.exists()


@needs_make
def test_clean_removes_a_demos_home_and_one_that_was_only_opened(tmp_path: Path) -> None:
    home = tmp_path / ".voice_pipeline"
    assert clean(tmp_path).returncode == 0
    claim(home)
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


@pytest.mark.parametrize("work", ["people", "telemetry"])
def test_a_home_with_people_or_telemetry_is_somebodys(tmp_path: Path, work: str) -> None:
    store = Store.open(load_settings(tmp_path / "home"))
    tick(store, release_policy(store))  # what a sensor does in an empty home is nobody's work
    assert is_free(tmp_path / "home")
    if work == "people":
        enrol(store, "ada", "release-manager")
    else:
        plain = dict.fromkeys(("event_id", "at", "device_id", "model_version", "day"), "x")
        with store.database.write() as connection:
            connection.execute(telemetry.insert(), {**plain, "event": {}})
    assert not is_free(tmp_path / "home")
    assert demo_home.main(tmp_path / "home") == 1


@needs_make
@pytest.mark.parametrize("marked", [True, False])
def test_clean_leaves_a_home_in_which_somebody_works(tmp_path: Path, marked: bool) -> None:
    home = tmp_path / ".voice_pipeline"
    if marked:
        claim(home)
    with served_home(home, "voice-pipeline dev"):
        refused = clean(tmp_path)
    assert refused.returncode != 0
    assert f"in use by voice-pipeline dev (process {os.getpid()})" in refused.stderr
    assert (home / LOCK).exists()
    assert (home / MARKER).exists() is marked
    assert clean(tmp_path).returncode == 0
    assert not home.exists()


def test_a_home_that_is_cleaned_away_beneath_a_command_is_not_held_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock would be on a file that is gone, and keep no demo out of the home that is made next."""
    home = tmp_path / "home"
    claim(home)
    real = fcntl.flock

    def overtaken(lock: TextIO, how: int) -> None:
        monkeypatch.undo()
        assert demo_home.main(home) == 0
        real(lock, how)

    monkeypatch.setattr(fcntl, "flock", overtaken)
    with (
        pytest.raises(HomeInUseError, match="was removed by `make clean` just now"),
        served_home(home, "voice-pipeline dev"),
    ):
        pass
    claim(home)


def test_a_demos_home_stays_a_demos_while_it_is_cleaned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `make clean` that was killed can be run again, and what starts meanwhile is told of it."""
    home = tmp_path / "home"
    claim(home)
    for name in ("blobs", "z", "0"):
        (home / name).mkdir()
    real, seen = shutil.rmtree, []

    def watched(path: Path) -> None:
        seen.append(path.name)
        assert is_free(home)
        with pytest.raises(HomeInUseError, match=rf"in use by make clean \(process {os.getpid()}\)"):
            claim(home)
        real(path)

    monkeypatch.setattr(shutil, "rmtree", watched)
    assert demo_home.main(home) == 0
    assert sorted(seen[:-1]) == ["0", "blobs", "z"]
    assert seen[-1] == "home"
    assert not home.exists()


def test_a_home_that_cannot_be_removed_is_told_of_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home").touch()
    assert demo_home.main(tmp_path / "home") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'home'} is not removed" in line
    assert (tmp_path / "home").exists()


@needs_make
def test_clean_that_cannot_look_into_a_home_leaves_it(tmp_path: Path) -> None:
    (tmp_path / ".voice_pipeline").mkdir()
    refused = clean(tmp_path, binaries=tmp_path / "absent")
    assert refused.returncode != 0
    assert "nothing else was removed\n.venv is missing: run `make setup` first" in refused.stderr
    assert (tmp_path / ".voice_pipeline").exists()


@needs_make
@pytest.mark.parametrize(("argument", "told"), [([], "dev"), (["PORT=3001"], "dev --port 3001")])
def test_the_port_of_the_ui_can_be_chosen(argument: list[str], told: str) -> None:
    command = ["make", "-C", str(PROJECT_ROOT), "-n", "dev", *argument]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.strip().splitlines()[-2 if "Leaving" in said else -1].rstrip().endswith(f"voice-pipeline {told}")
