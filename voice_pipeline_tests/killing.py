"""`kill -9` inside every write: a step runs in a forked child that kills itself right before its n-th write.

A write is a commit (all is said to the database, nothing of it lasts), a flush of a file, its move to its place, and
the opening of a file to be written; with `STATEMENTS` also each statement that changes a database. Between two of them
nothing that lasts happens, so their instants are all there are.
"""

from __future__ import annotations

import io
import itertools
import os
import pathlib
import signal
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, Engine, event

Step = Callable[[], object]
READS = ("SELECT", "PRAGMA", "BEGIN")
STATEMENTS, COMMITS = "before_cursor_execute", "commit"
MOVES = ("replace", "rename", "link", "fsync")


def interruptions(prepare: Callable[[], Step], at: str = COMMITS, at_most: int = 500) -> Iterator[int]:
    """For n = 1, 2, …: `prepare` anew, run the step that it returns, killed before its n-th write, and yield n, until
    the step comes to its end. The step opens its own store: no connection crosses a fork.
    """
    for n in range(1, at_most + 1):
        if not killed(prepare(), n, at):
            return
        yield n
    raise AssertionError(f"a step with more than {at_most} writes")


def killed(step: Step, n: int, at: str = COMMITS) -> bool:
    """Run `step` in a child that is killed before its n-th write; False if it came to its end before."""
    child = os.fork()
    if child == 0:
        try:
            _before_each_write(_die_at(n), at)
            step()
        except BaseException:  # noqa: BLE001 - nothing may come back from here into the tests
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the step failed in the child; its traceback is above"
    return False


def _die_at(n: int) -> Callable[[], None]:
    count = itertools.count(1)

    def act() -> None:
        if next(count) == n:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


def _before_each_write(act: Callable[[], None], at: str) -> None:
    """For the rest of this process, which is a child that does nothing else."""

    def statement(_c: Any, _cursor: Any, text: str, *_: Any) -> None:
        if not text.lstrip().upper().startswith(READS):
            act()

    event.listen(Engine, COMMITS, lambda connection: act() if _writes(connection) else None)
    if at == STATEMENTS:
        event.listen(Engine, STATEMENTS, statement)
    for name in MOVES:
        setattr(os, name, _after(act, getattr(os, name)))
    opened = pathlib.Path.open

    def open_path(path: pathlib.Path, mode: str = "r", *rest: Any, **named: Any) -> io.IOBase:
        if set(mode) & set("wax+"):
            act()
        return opened(path, mode, *rest, **named)

    pathlib.Path.open = open_path  # type: ignore[assignment, method-assign]


def _writes(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("write"))


def _after(act: Callable[[], None], call: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **named: Any) -> Any:
        act()
        return call(*arguments, **named)

    return wrapped
