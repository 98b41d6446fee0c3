"""`voice-pipeline dev`: it says what it starts, refuses what would do harm, and leaves nothing behind at its end."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from voice_pipeline import cli_dev
from voice_pipeline.demo_home import MARKER, HomeInUseError, claimed_home
from voice_pipeline_tests.command_line import run

MARK = "VOICE_PIPELINE_TEST_OF_DEV"
"""An environment variable by which a test knows the processes that it led to."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    monkeypatch.setenv("VOICE_PIPELINE_HOME", str(path))
    for name in ("DAGSTER_HOME", "DVC_SITE_CACHE_DIR"):  # set by the command, in this process
        monkeypatch.setenv(name, "")
    return path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that would have been run."""
    commands: list[list[str]] = []

    def note(command: list[str], _lock: int) -> int:
        commands.append(command)
        return 0

    monkeypatch.setattr(cli_dev, "run_until_stopped", note)
    return commands


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_it_says_what_starts_where_and_how_to_stop_it(
    home: Path, port: int, started: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with claimed_home(home, {}):
        pass
    assert run(monkeypatch, "dev", "--port", str(port)) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert f"{home}: starting the Dagster UI and daemon: http://127.0.0.1:{port} answers in about half a minute" in line
    assert f"stop with Ctrl-C or `kill {os.getpid()}`" in line
    ((program, *arguments),) = started
    assert Path(program).name == "dagster"
    assert arguments[:5] == ["dev", "--host", "127.0.0.1", "--port", str(port)]


def test_parts_of_it_get_their_own_options_and_the_ui_its_address(
    home: Path, port: int, started: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "dev", "webserver", "--read-only", "--host", "localhost", "--port", str(port)) == 0
    assert f"http://localhost:{port}" in capsys.readouterr().out
    assert run(monkeypatch, "dev", "daemon", "--log-level", "error") == 0
    assert "http" not in capsys.readouterr().out
    webserver, daemon = started
    assert webserver[1:5] == ["--host", "localhost", "--port", str(port)]
    assert webserver[-1] == "--read-only"
    assert daemon[1] == "run"
    assert daemon[-2:] == ["--log-level", "error"]
    assert "--port" not in daemon


def test_on_an_empty_home_it_says_what_to_do_first(
    home: Path, port: int, started: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "dev", "--port", str(port)) == 0
    hint, _line = capsys.readouterr().out.splitlines()
    assert f"home {home} is empty: `make demo`" in hint
    assert "voice-pipeline capture import DIR" in hint
    assert len(started) == 1


@pytest.mark.parametrize("part", [[], ["webserver"], ["daemon"]])
def test_a_home_in_which_a_demo_runs_is_refused(
    home: Path,
    port: int,
    part: list[str],
    started: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with claimed_home(home, {}):
        assert run(monkeypatch, "dev", *part, "--port", str(port)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"in use by voice-pipeline demo (process {os.getpid()}): wait for its end" in line
    assert "--home" in line
    assert started == []


def test_devices_are_not_served_from_a_home_in_which_a_demo_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(uvicorn, "run", lambda *_args, **_options: pytest.fail("served"))
    with claimed_home(home, {}):
        assert run(monkeypatch, "edge", "serve") == 1
    assert "in use by voice-pipeline demo" in capsys.readouterr().err
    assert (home / MARKER).exists()


def test_no_demo_starts_in_a_home_from_which_devices_are_served(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def served(*_args: object, **_options: object) -> None:
        with pytest.raises(HomeInUseError, match="voice-pipeline edge serve"), claimed_home(home, {}):
            pass

    monkeypatch.setattr(uvicorn, "run", served)
    assert run(monkeypatch, "edge", "serve") == 0


def test_a_port_that_is_taken_is_refused_before_anything_starts(
    home: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(monkeypatch, "dev", "--port", str(port)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"127.0.0.1:{port}" in line
    assert "make dev PORT=N" in line
    assert started == []
    assert not home.exists()


RUN = """
import fcntl, sys
from voice_pipeline import cli_dev
cli_dev.GRACE_S = 1.0
with open(sys.argv[1], "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    sys.exit(cli_dev.run_until_stopped(sys.argv[2:], lock.fileno()))
"""


@contextmanager
def supervised(
    tmp_path: Path, *command: str, before: Callable[[], object] = os.setsid
) -> Iterator[subprocess.Popen[str]]:
    """`command` under `run_until_stopped` in a process of its own; yields once the command has printed a line."""
    arguments = [sys.executable, "-c", RUN, str(tmp_path / "lock"), *command]
    environment = {**os.environ, MARK: str(tmp_path)}
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=before
    ) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == "up\n"
        try:
            yield supervisor
        finally:
            for process in alive(tmp_path):
                os.kill(process, signal.SIGKILL)


def alive(folder: Path) -> list[int]:
    """Processes that a test led to, by the mark in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"{MARK}={folder}\0".encode() in (entry / "environ").read_bytes()
        except OSError:  # it has ended, or is not ours
            continue
        if marked:
            found.append(int(entry.name))
    return found


def left_after_a_moment(folder: Path) -> list[int]:
    """The same, once those that were killed have had the time to die."""
    deadline = time.monotonic() + 10
    while (left := alive(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def sigint_ignored() -> None:
    """As in a shell's `make dev &`."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")


@needs_proc
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whoever_is_told_to_stop_leaves_no_process_behind(tmp_path: Path, ending: signal.Signals) -> None:
    stubborn = "trap '' TERM INT HUP; sleep 600 & echo up; while :; do sleep 600; done"
    with supervised(tmp_path, "sh", "-c", stubborn, before=sigint_ignored) as supervisor:
        assert len(alive(tmp_path)) >= 3
        os.killpg(supervisor.pid, ending)
        assert supervisor.wait(timeout=60) == 0
        assert left_after_a_moment(tmp_path) == []


AT_ONCE = """
import os, signal, subprocess, sys
from voice_pipeline import cli_dev
cli_dev.GRACE_S = 1.0
number, moment = int(sys.argv[2]), sys.argv[1]

class Telling(subprocess.Popen):
    def __init__(self, *args, **options):
        if moment == "before":
            os.kill(os.getpid(), number)
        super().__init__(*args, **options)
        if moment == "after":
            os.kill(os.getpid(), number)

    def _execute_child(self, *args, **options):
        super()._execute_child(*args, **options)
        if moment == "within":
            os.kill(os.getpid(), number)

    def terminate(self):
        super().terminate()
        if moment == "while ending":
            os.kill(os.getpid(), number)

cli_dev.subprocess.Popen = Telling
if moment == "while ending":
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
with open(os.devnull) as lock:
    sys.exit(cli_dev.run_until_stopped(["sleep", "600"], lock.fileno()))
"""


@needs_proc
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["before", "within", "after", "while ending"])
def test_at_whatever_moment_it_is_told_to_stop_nothing_is_left_behind(
    tmp_path: Path, ending: signal.Signals, moment: str
) -> None:
    """Once, a signal within the start of the program left it running, and nobody who knew of it."""
    arguments = [sys.executable, "-c", AT_ONCE, moment, str(ending.value)]
    try:
        with subprocess.Popen(arguments, env={**os.environ, MARK: str(tmp_path)}, start_new_session=True) as supervisor:
            assert supervisor.wait(timeout=60) == 0
        assert left_after_a_moment(tmp_path) == []
    finally:
        for process in alive(tmp_path):
            os.kill(process, signal.SIGKILL)


@needs_proc
def test_a_program_that_ends_by_itself_leaves_no_process_behind_and_its_exit_code(tmp_path: Path) -> None:
    with supervised(tmp_path, "sh", "-c", "sleep 600 & echo up; exit 7") as supervisor:
        assert supervisor.wait(timeout=60) == 7
        assert left_after_a_moment(tmp_path) == []


@needs_proc
def test_what_it_locks_stays_locked_while_the_program_lives_on(tmp_path: Path) -> None:
    with supervised(tmp_path, "sh", "-c", "echo up; sleep 600; :") as supervisor:
        supervisor.kill()
        supervisor.wait()
        assert alive(tmp_path) != []
        with (tmp_path / "lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@needs_proc
@pytest.mark.slow
def test_the_ui_and_the_daemon_end_when_their_process_group_is_told_to(home: Path, port: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "voice_pipeline.cli", "dev", "--home", str(home), "--port", str(port)]
    environment = {**os.environ, MARK: str(tmp_path)}
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment, preexec_fn=sigint_ignored) as server,
    ):
        try:
            until_it_answers(f"http://127.0.0.1:{port}/server_info", server)
            with (
                pytest.raises(HomeInUseError, match=rf"voice-pipeline dev \(process {server.pid}\)"),
                claimed_home(home, {}),
            ):
                pass
            os.killpg(server.pid, signal.SIGTERM)
            assert server.wait(timeout=60) == 0
            assert left_after_a_moment(tmp_path) == []
        finally:
            for process in alive(tmp_path):
                os.kill(process, signal.SIGKILL)


def until_it_answers(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert server.poll() is None, "it ended"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    pytest.fail(f"{url} did not answer within four minutes")
