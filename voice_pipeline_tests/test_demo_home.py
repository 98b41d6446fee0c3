"""What lies in a home that is not a demo's is somebody's: no demo starts it over."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select

from voice_pipeline import demo_home
from voice_pipeline.demo_home import (
    LOCK,
    MARKER,
    HomeInUseError,
    HomeUnusableError,
    claimed_home,
    is_empty,
    is_free,
    keep_home,
    served_home,
)
from voice_pipeline.release.policy import LAST_GOOD
from voice_pipeline.settings import load_settings
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import inbox
from voice_pipeline_tests.capture.clips import capture, tone


def handed_in(home: Path) -> None:
    """A clip waits in the inbox of `home`."""
    from voice_pipeline.capture.intake import accept

    accept(Store.open(load_settings(home)), capture(1), tone(1))


def claim(home: Path) -> None:
    """What a demo does that ends at once."""
    with claimed_home(home, {"seed": 1}):
        pass


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


@pytest.mark.parametrize(
    "name",
    [
        *("reports-2026", "keys-backup", "dagster-old", "tuf-1", "in-use.lock-mine", "last_good_release_policy.yaml-1"),
        *("catalogue.db-backup", "catalogue.db-wal-1", "vault.db.bak", "catalogue", "dvc-store", "-wal", "keys-wal"),
    ],
)
def test_what_is_only_named_like_something_of_ours_is_somebodys(tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    (home / name).mkdir(parents=True)
    assert not is_free(home)
    with pytest.raises(HomeInUseError, match="not a demo's"):
        claim(home)
    assert demo_home.main(home) == 1
    assert (home / name).is_dir()


def test_the_files_that_sqlite_keeps_beside_a_database_are_nobodys(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for database in ("catalogue.db", "vault.db"):
        for part in ("-wal", "-shm", "-journal"):
            (home / (database + part)).touch()
    assert is_free(home)
    claim(home)


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    home, letter = tmp_path / "home", tmp_path / "letter"
    home.mkdir()
    letter.write_text("dear")
    (home / LOCK).symlink_to(letter)
    with pytest.raises(HomeUnusableError, match=str(home / LOCK)), served_home(home, "voice-pipeline dev"):
        pass
    assert demo_home.main(home) == 1
    assert letter.read_text() == "dear"


def served(home: Path) -> None:
    with served_home(home, "voice-pipeline dev"):
        pass


@pytest.mark.parametrize("act", [claim, served, keep_home])
def test_a_home_that_the_system_refuses_is_told_by_its_path_and_what_to_do(
    tmp_path: Path, act: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "held" / LOCK).mkdir(parents=True)
    refused = [(tmp_path / "file", tmp_path / "file"), (tmp_path / "file" / "home", tmp_path / "file" / "home")]
    refused.append((tmp_path / "held", tmp_path / "held" / LOCK))
    for home, path in refused:
        with pytest.raises(HomeUnusableError) as told:
            act(home)
        assert f"home {home} cannot be used (" in str(told.value)
        assert str(path) in str(told.value)
        assert "choose another home with --home or VOICE_PIPELINE_HOME" in str(told.value)
        assert "Errno" not in str(told.value)
        assert demo_home.main(home) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{home} is not removed" in line
        assert "Errno" not in line


@pytest.mark.parametrize("act", [claim, keep_home])
def test_a_marker_that_cannot_be_changed_is_told_of(tmp_path: Path, act: Callable[[Path], None]) -> None:
    home = tmp_path / "home"
    (home / MARKER).mkdir(parents=True)
    with pytest.raises(HomeUnusableError, match=rf"home {home} cannot be used \({home}/.*{MARKER}"):
        act(home)


def test_an_error_of_what_is_done_in_a_home_is_no_error_of_the_home(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), claimed_home(tmp_path / "home", {}):
        (tmp_path / "absent").read_text()
    with pytest.raises(FileNotFoundError), served_home(tmp_path / "home", "voice-pipeline dev"):
        (tmp_path / "absent").read_text()
