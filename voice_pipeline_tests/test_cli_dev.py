"""`voice-pipeline dev`: it says what it starts, and refuses what would do harm."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import uvicorn

from voice_pipeline import cli_dev, demo_home
from voice_pipeline.demo_home import MARKER, HomeInUseError, claimed_home, keep_home
from voice_pipeline_tests.browser.webserver import until_it_answers
from voice_pipeline_tests.command_line import run
from voice_pipeline_tests.processes import MARK, end_all, left_after_a_moment, needs_proc, sigint_ignored


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
    """Free, and below the ports that a system gives to whoever asks for any: nobody is given it meanwhile."""
    for number in range(10_000 + os.getpid() % 20_000, 32_000):
        with suppress(OSError), socket.create_server(("127.0.0.1", number)):
            return number
    pytest.fail("no port is free")


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


def test_a_home_from_which_devices_are_served_is_no_demos(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a demo start between the moment from which it is not, and the end of serving."""
    with claimed_home(home, {}):
        pass
    marked: list[bool] = []

    def no_demo_starts(*_arguments: object, **_options: object) -> None:
        with pytest.raises(HomeInUseError, match="voice-pipeline edge serve"), claimed_home(home, {}):
            pass
        marked.append((home / MARKER).exists())

    def keep(path: Path) -> None:
        no_demo_starts()
        keep_home(path)
        no_demo_starts()

    monkeypatch.setattr(demo_home, "keep_home", keep)
    monkeypatch.setattr(uvicorn, "run", no_demo_starts)
    assert run(monkeypatch, "edge", "serve") == 0
    assert marked == [True, False, False]


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


def test_devices_that_cannot_be_served_leave_a_demos_home_a_demos(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with claimed_home(home, {}):
        pass
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(monkeypatch, "edge", "serve", "--port", str(port)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"127.0.0.1:{port}" in line
    assert (home / MARKER).exists()


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
            until_it_answers(f"http://127.0.0.1:{port}", server)
            with (
                pytest.raises(HomeInUseError, match=rf"voice-pipeline dev \(process {server.pid}\)"),
                claimed_home(home, {}),
            ):
                pass
            os.killpg(server.pid, signal.SIGTERM)
            assert server.wait(timeout=60) == 0
            assert left_after_a_moment(tmp_path) == []
        finally:
            end_all(tmp_path)
