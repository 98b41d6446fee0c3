"""What lies in a home that is not a demo's is somebody's: no demo starts it over and no `make clean` removes it."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest
from sqlalchemy import func, insert, select

from voice_pipeline import demo_home
from voice_pipeline.demo_home import (
    LOCK,
    MARKER,
    HomeInUseError,
    claimed_home,
    is_empty,
    is_free,
    keep_home,
    served_home,
)
from voice_pipeline.release.policy import LAST_GOOD
from voice_pipeline.settings import PROJECT_ROOT, load_settings
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import inbox
from voice_pipeline_tests.capture.clips import capture, tone

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def handed_in(home: Path) -> None:
    """A clip waits in the inbox of `home`."""
    from voice_pipeline.capture.intake import accept

    accept(Store.open(load_settings(home)), capture(1), tone(1))


def claim(home: Path) -> None:
    """What a demo does that ends at once."""
    with claimed_home(home, {"seed": 1}):
        pass


def clean(folder: Path, binaries: Path = Path(sys.executable).parent) -> subprocess.CompletedProcess[str]:
    """`make clean` in `folder`, which has no virtual environment of its own."""
    command = ["make", "-C", str(folder), "-f", str(PROJECT_ROOT / "Makefile"), "clean", f"BIN={binaries}"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_demo_takes_a_free_home_and_no_other(tmp_path: Path) -> None:
    home = tmp_path / "home"
    claim(home)
    (home / "told").mkdir()
    claim(home)
    assert sorted(child.name for child in home.iterdir()) == [MARKER, LOCK]
    handed_in(home)
    keep_home(home)
    assert not is_free(home)
    with pytest.raises(HomeInUseError, match="not a demo's"):
        claim(home)
    assert (home / "catalogue.db").exists()


def test_what_came_in_before_a_demo_had_the_lock_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that came in between the question whose the home is and the lock."""
    home = tmp_path / "home"
    asked: list[bool] = []

    def overtaken(path: Path) -> bool:
        asked.append(is_free(path))
        if len(asked) == 1:
            handed_in(path)
        return asked[-1]

    monkeypatch.setattr(demo_home, "is_free", overtaken)
    with pytest.raises(HomeInUseError, match="not a demo's"):
        claim(home)
    assert asked == [True, False]
    assert Store.open(load_settings(home)).database.scalar(select(func.count()).select_from(inbox)) == 1


def test_all_who_hold_a_home_are_named_and_no_one_who_ended(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with served_home(home, "voice-pipeline dev"):
        told = f"""
from pathlib import Path
from voice_pipeline.demo_home import served_home
with served_home(Path({str(home)!r}), "voice-pipeline capture import"):
    pass
"""
        subprocess.run([sys.executable, "-c", told], check=True)
        with served_home(home, "voice-pipeline edge serve"), pytest.raises(HomeInUseError) as refused:
            claim(home)
        me = os.getpid()
        named = f"in use by voice-pipeline dev (process {me}), voice-pipeline edge serve (process {me}): wait"
        assert named in str(refused.value)


def test_who_lives_on_after_a_command_that_was_killed_is_told_of(tmp_path: Path) -> None:
    home = tmp_path / "home"
    told = f"""
import os, subprocess
from pathlib import Path
from voice_pipeline.demo_home import served_home
with served_home(Path({str(home)!r}), "voice-pipeline dev") as lock:
    child = subprocess.Popen(["sleep", "600"], pass_fds=[lock.fileno()], stdout=-3, stderr=-3)
    print(child.pid, flush=True)
    os.kill(os.getpid(), 9)
"""
    child = int(subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=False).stdout)
    try:
        with pytest.raises(HomeInUseError, match="in use by a process whose command was killed") as refused:
            claim(home)
        (ask,) = re.findall(r"`(fuser .+)`", str(refused.value))
        if shutil.which("fuser"):
            assert subprocess.run(ask.split(), capture_output=True, text=True, check=True).stdout.split() == [
                str(child)
            ]
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_home_in_which_a_demo_runs_is_left_to_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with claimed_home(home, {"seed": 1}):
        (home / "told").mkdir()
        held = (home / LOCK).stat().st_ino
        with pytest.raises(HomeInUseError, match=rf"voice-pipeline demo \(process {os.getpid()}\): wait .* --home"):
            claim(home)
        with pytest.raises(HomeInUseError, match=str(os.getpid())), served_home(home, "voice-pipeline dev"):
            pass
        with pytest.raises(HomeInUseError, match=str(os.getpid())):
            keep_home(home)
        assert (home / "told").exists()
        assert (home / MARKER).exists()
        assert (home / LOCK).stat().st_ino == held
    claim(home)
    assert not (home / "told").exists()


def test_a_home_that_is_served_is_not_cleared_by_a_demo(tmp_path: Path) -> None:
    home = tmp_path / "home"
    claim(home)
    (home / "told").mkdir()
    with served_home(home, "voice-pipeline edge serve"), served_home(home, "voice-pipeline dev"):
        with pytest.raises(HomeInUseError, match=rf"voice-pipeline dev \(process {os.getpid()}\)"):
            claim(home)
        assert (home / "told").exists()
    claim(home)


def test_a_demo_that_was_killed_holds_its_home_no_longer(tmp_path: Path) -> None:
    home = tmp_path / "home"
    told = f"""
import time
from pathlib import Path
from voice_pipeline.demo_home import claimed_home
with claimed_home(Path({str(home)!r}), {{}}):
    print("claimed", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", told], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert demo.stdout.readline() == "claimed\n"
        try:
            with pytest.raises(HomeInUseError, match=rf"process {demo.pid}\)"):
                claim(home)
        finally:
            demo.kill()
    claim(home)


def test_a_home_on_which_only_sensors_ran_is_empty_and_free(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert is_empty(home)
    with served_home(home, "voice-pipeline dev"):
        Store.open(load_settings(home))
        for name in ("dagster", "keys", "reports"):
            (home / name).mkdir(exist_ok=True)
        (home / LAST_GOOD).touch()
        assert is_empty(home)
    claim(home)
    assert not is_empty(home)


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
