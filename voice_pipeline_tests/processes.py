"""Processes that a test starts and does not leave behind."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")

MARK = "VOICE_PIPELINE_TEST_OF_DEV"
"""An environment variable by which a test knows the processes that it led to."""


def alive(folder: Path) -> list[int]:
    """Processes that a test led to, by the mark in their environment; without one that is just within `exec`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"{MARK}={folder}\0".encode() in (entry / "environ").read_bytes()
        except OSError:  # it has ended, or is not ours
            continue
        if marked:
            found.append(int(entry.name))
    return found


def end_all(folder: Path) -> None:
    """Twice, since it may have overlooked one."""
    for _ in range(2):
        for process in alive(folder):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        left_after_a_moment(folder)


def left_after_a_moment(folder: Path) -> list[int]:
    """Those that are alive, once those that were killed have had the time to die."""
    deadline = time.monotonic() + 10
    while (left := alive(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def from_a_terminal() -> None:
    """Whatever ran the tests, SIGHUP ends a program."""
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def sigint_ignored() -> None:
    """As in a shell's `make dev &`."""
    from_a_terminal()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def sighup_ignored() -> None:
    """As in `nohup make dev`."""
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
