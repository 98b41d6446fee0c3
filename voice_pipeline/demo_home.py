"""Whose a home is: a demo may start its own home over, and `make clean` may remove it; anybody else's is left alone.

A demo marks the home that it takes. The mark is gone from the moment on which somebody hands clips in or serves devices
there. `python -m voice_pipeline.demo_home HOME` removes a demo's HOME; where it is somebody's, or in use, it ends with
exit code 1 and one line.

Nothing that runs on the real clock works on a home while a story is told there on a simulated one, and no story starts
beneath it: a demo holds a lock on its home alone; `dev`, `edge serve` and an import share it. It is the kernel's lock
(`flock`, since filelock knows no shared one of that kind) and ends with its process, however that ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import typer
from sqlalchemy import func, select

from voice_pipeline.settings import load_settings
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import inbox

MARKER = "demo-home.json"
LOCK = "in-use.lock"
OPENED = {"catalogue.db", "vault.db", "keys", "dagster", "reports", "tuf", "dvc", "last_good_release_policy.yaml", LOCK}
"""What opening a home and the sensors of an empty one leave there: names, or their part before the first hyphen."""


class HomeInUseError(Exception):
    """The home holds state that no demo made, or a process works on it; it is left alone."""


@contextmanager
def claimed_home(home: Path, told_with: dict[str, Any]) -> Iterator[None]:
    """Take an unused home or start an earlier demo's home over, and hold it as long as the context lasts; never touch
    anything else. The marker goes last, so a demo that was killed while it cleared the home is simply run again.

    Args:
        told_with: what the marker says of the demo; plain JSON.

    Raises:
        HomeInUseError: somebody's work lies there, or a process works there.
    """
    marker = home / MARKER
    if home.exists() and not home.is_dir():
        raise HomeInUseError(f"home {home} is a file; choose another with --home")
    if not is_free(home):
        raise HomeInUseError(f"home {home} holds work that is not a demo's; choose another with --home")
    with _locked(home, fcntl.LOCK_EX) as lock:
        if not is_free(home):  # somebody may have come in before it was locked
            raise HomeInUseError(f"home {home} holds work that is not a demo's; choose another with --home")
        with _signed(lock, "voice-pipeline demo"):
            write_atomically(marker, json.dumps(told_with).encode())
            _clear(home)
            yield


@contextmanager
def served_home(home: Path, command: str) -> Iterator[TextIO]:
    """Hold `home` against demos as long as the context lasts, beside others that do the same.

    Args:
        command: who holds it, for the message to whoever is refused.

    Returns:
        The open lock file; a process that inherits it holds the home for as long as it lasts.

    Raises:
        HomeInUseError: a demo is running there.
    """
    with _locked(home, fcntl.LOCK_SH) as lock, _signed(lock, command):
        yield lock


def keep_home(home: Path) -> None:
    """What lies in `home` is somebody's work from now on: no later demo starts it over, no `make clean` removes it.

    Raises:
        HomeInUseError: a demo is running there.
    """
    with _locked(home, fcntl.LOCK_SH):
        (home / MARKER).unlink(missing_ok=True)


@contextmanager
def _locked(home: Path, how: int) -> Iterator[TextIO]:
    """The open lock file of `home`, locked: alone (`LOCK_EX`) or shared (`LOCK_SH`)."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK).open("a+") as lock:
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


def _clear(home: Path) -> None:
    """Remove all but the marker, which goes last, and the lock."""
    for child in home.iterdir():
        if child.name not in (MARKER, LOCK):
            shutil.rmtree(child) if child.is_dir() else child.unlink()


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
    """Whether nobody's work lies in a home: it is a demo's, or was at most opened, and nobody handed in a clip."""
    if not home.exists() or (home / MARKER).exists():
        return True
    if any(OPENED.isdisjoint({child.name, child.name.split("-")[0]}) for child in home.iterdir()):
        return False
    if not (home / "catalogue.db").exists():
        return True
    return Store.open(load_settings(home)).database.scalar(select(func.count()).select_from(inbox)) == 0


def main(home: Path) -> int:
    """Exit code 0 if `home` was a demo's or empty and is removed, else 1 and a line on standard error."""
    try:
        with _locked(home, fcntl.LOCK_EX) as lock, _signed(lock, "make clean"):
            if is_free(home):
                _clear(home)
                shutil.rmtree(home)
                return 0
    except (HomeInUseError, OSError) as error:
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
