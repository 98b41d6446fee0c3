"""Whose a home is: a demo may start its own home over, and `make clean` may remove it; anybody else's is left alone.

A demo marks the home that it takes. The mark is gone from the moment on which somebody hands clips in or serves devices
there. `python -m voice_pipeline.demo_home HOME` removes a demo's HOME; where it is somebody's, or in use, it ends with
exit code 1 and one line. A link in a home is removed, what it leads to is not; of a HOME that is a link itself, the
folder is removed and the link stays.

Nothing that runs on the real clock works on a home while a story is told there on a simulated one, and no story starts
beneath it: a demo holds a lock on its home alone; `dev`, `edge serve` and an import share it. It is the kernel's lock
(`flock`, since filelock knows no shared one of that kind) and ends with its process, and those that inherited it,
however they end.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import typer
from sqlalchemy import func, select

from voice_pipeline.settings import load_settings
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import inbox, telemetry

MARKER = "demo-home.json"
LOCK = "in-use.lock"
DATABASES = {name + part for name in ("catalogue.db", "vault.db") for part in ("", "-wal", "-shm", "-journal")}
"""And the files that SQLite keeps beside them."""
OPENED = DATABASES | {"keys", "dagster", "reports", "tuf", "dvc-site-cache", "last_good_release_policy.yaml", LOCK}
"""What opening a home and the sensors of an empty one leave there, by name."""


class HomeInUseError(Exception):
    """The home holds state that no demo made, or a process works on it; it is left alone."""


class HomeUnusableError(Exception):
    """The system refuses the home, or a file in it; the message says which, why, and what to do."""


@contextmanager
def usable(home: Path) -> Iterator[None]:
    """Whatever the system refuses within the context is told by its path.

    Raises:
        HomeUnusableError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise HomeUnusableError(
            f"home {home} cannot be used ({error.filename or home}: {why}): see that you may read and write there "
            "(`ls -ld` says whose it is), or choose another home with --home or VOICE_PIPELINE_HOME"
        ) from error


@contextmanager
def claimed_home(home: Path, told_with: dict[str, Any]) -> Iterator[None]:
    """Take an unused home or start an earlier demo's home over, and hold it as long as the context lasts; never touch
    anything else. The marker goes last, so a demo that was killed while it cleared the home is simply run again.

    Args:
        told_with: what the marker says of the demo; plain JSON.

    Raises:
        HomeInUseError: somebody's work lies there, or a process works there.
        HomeUnusableError: it cannot be read or written.
    """
    _refuse_a_home_of_somebodys(home)
    with _locked(home, fcntl.LOCK_EX) as lock:
        _refuse_a_home_of_somebodys(home)  # who may have come in before it was locked
        with _signed(lock, "voice-pipeline demo"):
            with usable(home):
                write_atomically(home / MARKER, json.dumps(told_with).encode())
                _clear(home)
            yield


@contextmanager
def served_home(home: Path, command: str) -> Iterator[TextIO]:
    """Hold `home` against demos as long as the context lasts, beside others that do the same.

    Args:
        command: who holds it, for the message to whoever is refused.

    Returns:
        The open lock file; a process that inherits it holds the home for as long as it lasts. Those that such a process
        starts hold nothing unless it hands the file on.

    Raises:
        HomeInUseError: a demo is running there.
        HomeUnusableError: it cannot be read or written.
    """
    with _locked(home, fcntl.LOCK_SH) as lock, _signed(lock, command):
        yield lock


def keep_home(home: Path) -> None:
    """What lies in `home` is somebody's work from now on: no later demo starts it over, no `make clean` removes it.

    Raises:
        HomeInUseError: a demo is running there.
        HomeUnusableError: it cannot be read or written.
    """
    with _locked(home, fcntl.LOCK_SH), usable(home):
        (home / MARKER).unlink(missing_ok=True)


def _refuse_a_home_of_somebodys(home: Path) -> None:
    with usable(home):
        if not is_free(home):
            raise HomeInUseError(f"home {home} holds work that is not a demo's; choose another with --home")


@contextmanager
def _locked(home: Path, how: int) -> Iterator[TextIO]:
    """The open lock file of `home`, locked: alone (`LOCK_EX`) or shared (`LOCK_SH`)."""
    with ExitStack() as stack:
        with usable(home):
            home.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(home / LOCK, "a+", errors="replace", opener=_no_link))
            try:
                fcntl.flock(lock, how | fcntl.LOCK_NB)
            except BlockingIOError:
                left = f"a process whose command was killed (`fuser {lock.name}` gives its number)"
                raise HomeInUseError(
                    f"home {home} is in use by {', '.join(_holders(lock)) or left}: wait for its end or stop it, "
                    "or choose another home with --home or VOICE_PIPELINE_HOME"
                ) from None
        if not os.fstat(lock.fileno()).st_nlink:  # removed after it was opened: the next one to come makes another
            raise HomeInUseError(f"home {home} was removed by `make clean` just now: run the command again")
        yield lock


def _no_link(path: str, flags: int) -> int:
    """Who holds a lock is written into it: never into a file of somebody's that it leads to."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _clear(home: Path) -> None:
    """Remove all but the marker, which goes last, and the lock. Links are not followed."""
    for child in home.iterdir():
        if child.name not in (MARKER, LOCK):
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()


@contextmanager
def _signed(lock: TextIO, command: str) -> Iterator[None]:
    """Who holds a lock stands in it, beside those that share it."""
    mine = f"{command} (process {os.getpid()})"
    _write(lock, [*_holders(lock), mine])
    try:
        yield
    finally:
        _write(lock, [line for line in _holders(lock) if line != mine])


def _holders(lock: TextIO) -> list[str]:
    """Those who stand in it and run."""
    lock.seek(0)
    lines = [line for line in lock.read().splitlines() if re.search(r"\(process \d+\)$", line)]
    return [line for line in lines if _runs(int(line.split()[-1][:-1]))]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:  # somebody else's
        return True
    except OSError:
        return False
    return True


def _write(lock: TextIO, lines: list[str]) -> None:
    lock.truncate(0)
    lock.write("\n".join(lines))
    lock.flush()


def is_empty(home: Path) -> bool:
    """Whether neither a demo nor anybody else filled a home."""
    return not (home / MARKER).exists() and is_free(home)


def is_free(home: Path) -> bool:
    """Whether nobody's work lies in a home: it is a demo's, or was at most opened: no clip was handed in, no device
    told anything, and nothing was written into the ledger, whose checkpoint lies there then.
    """
    if not home.exists() or (home / MARKER).exists():
        return True
    if not OPENED.issuperset(child.name for child in home.iterdir()):
        return False
    if not (home / "catalogue.db").exists():
        return True
    database = Store.open(load_settings(home)).database
    return not any(database.scalar(select(func.count()).select_from(table)) for table in (inbox, telemetry))


def main(home: Path) -> int:
    """Exit code 0 if `home` was a demo's or empty and is removed, else 1 and a line on standard error."""
    home = home.resolve()
    try:
        with _locked(home, fcntl.LOCK_EX) as lock, _signed(lock, "make clean"), usable(home):
            if is_free(home):
                _clear(home)
                shutil.rmtree(home)
                return 0
    except (HomeInUseError, HomeUnusableError) as error:
        typer.echo(f"{home} is not removed: {error}", err=True)
        return 1
    typer.echo(
        f"{home} holds work that is not a demo's, such as imported clips, and nothing was removed: move it elsewhere "
        f"(`mv {home} ~/dictation`, then `export VOICE_PIPELINE_HOME=~/dictation`) or delete it yourself, then clean",
        err=True,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
