"""`voice-pipeline dev` leaves nothing behind at its end, whenever and however it is told to stop."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from voice_pipeline.cli_dev import POLL_S
from voice_pipeline_tests.processes import (
    MARK,
    alive,
    end_all,
    from_a_terminal,
    left_after_a_moment,
    needs_proc,
    sighup_ignored,
    sigint_ignored,
)

RUN = """
import fcntl, sys
from voice_pipeline import cli_dev
cli_dev.GRACE_S = float(sys.argv[1])
with open(sys.argv[2], "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    sys.exit(cli_dev.run_until_stopped(sys.argv[3:], lock.fileno()))
"""


@contextmanager
def supervised(
    tmp_path: Path, *command: str, before: Callable[[], object] | None = None, grace_s: float = 1.0
) -> Iterator[subprocess.Popen[str]]:
    """`command` under `run_until_stopped` in a process of its own; yields once the command has printed a line."""
    arguments = [sys.executable, "-c", RUN, str(grace_s), str(tmp_path / "lock"), *command]
    environment = {**os.environ, MARK: str(tmp_path)}
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=before or from_a_terminal
    ) as supervisor:
        try:
            assert supervisor.stdout is not None
            assert select.select([supervisor.stdout], [], [], 60)[0], "it printed nothing within a minute"
            assert supervisor.stdout.readline() == "up\n"
            yield supervisor
        finally:
            end_all(tmp_path)


@needs_proc
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whoever_is_told_to_stop_leaves_no_process_behind(tmp_path: Path, ending: signal.Signals) -> None:
    stubborn = "trap '' TERM INT HUP; sleep 600 & echo up; while :; do sleep 600; done"
    with supervised(tmp_path, "sh", "-c", stubborn, before=sigint_ignored) as supervisor:
        deadline = time.monotonic() + 10
        while len(alive(tmp_path)) < 3:
            assert time.monotonic() < deadline, "not all of them came up"
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
    ends_well_and_leaves_nothing(tmp_path, AT_ONCE, moment, str(ending.value))


OVER_AND_OVER = """
import os, random, signal, sys, time
from voice_pipeline import cli_dev
cli_dev.POLL_S = 0.01
chance = random.Random(int(sys.argv[1]))
supervisor = os.getpid()
signal.signal(signal.SIGTERM, lambda *_: None)
with open(os.devnull) as lock:
    for _ in range(30):
        first = chance.uniform(0, 0.005)
        if not (teller := os.fork()):
            time.sleep(first)
            while os.getppid() == supervisor:
                os.kill(supervisor, signal.SIGTERM)
                time.sleep(0.0007)
            os._exit(0)
        code = cli_dev.run_until_stopped(["sleep", "600"], lock.fileno())
        os.kill(teller, signal.SIGKILL)
        os.waitpid(teller, 0)
        assert code == 0, code
"""


@needs_proc
@pytest.mark.parametrize("seed", range(3))
def test_told_over_and_over_from_around_its_start_on_it_leaves_no_process_behind(tmp_path: Path, seed: int) -> None:
    ends_well_and_leaves_nothing(tmp_path, OVER_AND_OVER, str(seed))


def ends_well_and_leaves_nothing(folder: Path, script: str, *arguments: str) -> None:
    """A script that supervises a program and is told to stop from within."""
    command = [sys.executable, "-c", script, *arguments]
    environment = {**os.environ, MARK: str(folder)}
    with subprocess.Popen(command, env=environment, preexec_fn=from_a_terminal) as supervisor:
        try:
            assert supervisor.wait(timeout=60) == 0
            assert left_after_a_moment(folder) == []
        finally:
            end_all(folder)


@needs_proc
def test_a_program_that_ends_its_work_when_told_is_given_the_time(tmp_path: Path) -> None:
    """What it started is in flight and is not told before that time is over."""
    saved = tmp_path / "saved"
    busy = f"(sleep 1; touch {saved}) & trap 'wait $!; exit 3' TERM; echo up; wait"
    with supervised(tmp_path, "sh", "-c", busy, grace_s=30.0) as supervisor:
        supervisor.terminate()
        assert supervisor.wait(timeout=60) == 0
        assert saved.exists()
        assert left_after_a_moment(tmp_path) == []


@needs_proc
def test_no_signal_is_blocked_in_the_program_or_ignored_by_it_that_dagster_goes_by(tmp_path: Path) -> None:
    status = tmp_path / "status"
    looks = f"print(open('/proc/self/status').read(), file=open({str(status)!r}, 'w')); print('up')"
    with supervised(tmp_path, sys.executable, "-c", looks, before=sigint_ignored) as supervisor:
        assert supervisor.wait(timeout=60) == 0
    masks = [int(line.split()[1], 16) for line in status.read_text().splitlines() if line[:6] in ("SigBlk", "SigIgn")]
    assert len(masks) == 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        assert [mask >> (number - 1) & 1 for mask in masks] == [0, 0], number


@needs_proc
def test_with_nohup_it_outlives_its_terminal(tmp_path: Path) -> None:
    with supervised(tmp_path, "sh", "-c", "echo up; sleep 600; :", before=sighup_ignored) as supervisor:
        os.killpg(supervisor.pid, signal.SIGHUP)
        time.sleep(5 * POLL_S)
        assert len(alive(tmp_path)) == 3
        supervisor.terminate()
        assert supervisor.wait(timeout=60) == 0


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
