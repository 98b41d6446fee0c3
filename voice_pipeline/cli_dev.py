"""`voice-pipeline dev`: Dagster's own commands on a home, until they are stopped."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from voice_pipeline.cli_home import Home
from voice_pipeline.cli_input import InputError
from voice_pipeline.settings import PROJECT_ROOT, Settings, load_settings, prepare_environment

GRACE_S = 8.0
"""How long a process that was told to end may take."""

POLL_S = 0.2
"""How soon a signal is acted upon."""


def dev(
    context: typer.Context,
    home: Home = None,
    host: Annotated[str, typer.Option("--host", "-h", help="Address that the UI listens on")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535, help="Port of the UI")] = 3000,
) -> None:
    """The Dagster UI and daemon on this home (`dev webserver …`, `dev daemon …` for one of them).

    They run until Ctrl-C or SIGTERM; other options go to Dagster as they are. A home in which a demo is running is
    refused: sensors there go by the demo's clock. After `kill -9` of both this command and `dagster dev` the web server
    and the daemon run on while the home is free for a demo: end these two yourself.
    """
    from voice_pipeline.demo_home import served_home, usable

    settings = load_settings(home)
    part = context.args[0] if context.args[:1] in (["webserver"], ["daemon"]) else "dev"
    listens = ["--host", host, "--port", str(port)]
    match part:
        case "webserver":
            program, what = ["dagster-webserver", *listens], "the Dagster UI"
        case "daemon":
            program, what = ["dagster-daemon", "run"], "Dagster's daemon"
        case _:
            program, what = ["dagster", "dev", *listens], "the Dagster UI and daemon"
    if part != "daemon":
        refuse_a_taken_port(host, port)
        what += f": http://{host}:{port} answers in about half a minute"
    with served_home(settings.root, f"voice-pipeline {' '.join(dict.fromkeys(['dev', part]))}") as lock:
        with usable(settings.root):
            _hint_at_an_empty_home(settings)
            prepare_environment(settings)
        typer.echo(f"home {settings.root}: starting {what}; stop with Ctrl-C or `kill {os.getpid()}`")
        sys.stdout.flush()
        rest = context.args if part == "dev" else context.args[1:]
        command = [str(Path(sys.executable).parent / program[0]), *program[1:]]
        command += ["-w", str(PROJECT_ROOT / "workspace.yaml"), *rest]
        raise typer.Exit(run_until_stopped(command, lock.fileno()))


def run_until_stopped(command: list[str], lock: int) -> int:
    """Run `command` until it ends or this process is told to; then nothing that it started is left.

    Dagster ends cleanly if its first process alone is told. A signal to all of them, like a terminal's Ctrl-C, can have
    it start a code server that outlives it by a minute; and where SIGINT is ignored, as in a shell's `make dev &`, it
    ignores SIGTERM too (1.13, `ProxyServerManager`, `setup_interrupt_handlers`). So it gets a session of its own.

    Args:
        lock: file descriptor that `command` inherits: what it locks stays locked while `command` or this process lives.
            `dagster dev` hands it on to nothing that it starts: where SIGKILL ends both, its web server and daemon live
            on and hold nothing.

    Returns:
        The command's exit code; 0 if this process was told to stop it.
    """
    told: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        told.append(number)  # and raises nothing: wherever the signal comes in, what was started is known and ended

    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # ignored: started with nohup
        signals.append(signal.SIGHUP)
    for each in signals:
        signal.signal(each, note)
    process = subprocess.Popen(command, start_new_session=True, pass_fds=[lock])
    try:
        while not told:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(POLL_S)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        return 0
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a process and those it started, runs among them: politely, then for good."""
    deadline = time.monotonic() + GRACE_S
    with suppress(ProcessLookupError):  # nothing is left
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def refuse_a_taken_port(host: str, port: int) -> None:
    """Say so now rather than after half a minute of loading."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise InputError(
            f"nothing can listen on {host}:{port} ({error.strerror}): choose another with --port (`make dev PORT=N`)"
        ) from error


def _hint_at_an_empty_home(settings: Settings) -> None:
    from voice_pipeline.demo_home import is_empty

    if not settings.database_url and is_empty(settings.root):
        typer.echo(
            f"home {settings.root} is empty: `make demo` fills it with a story, before you start this; "
            "`voice-pipeline capture import DIR` with your recordings, also while this runs"
        )
