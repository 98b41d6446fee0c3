"""Whose a home is: a demo may start its own home over, and `make clean` may remove it; anybody else's is left alone.

A demo marks the home that it takes. The mark is gone from the moment on which somebody hands clips in or serves devices
there. `python -m voice_pipeline.demo_home HOME` ends with exit code 1 and one line where HOME is somebody's.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import typer
from sqlalchemy import func, select

from voice_pipeline.settings import load_settings
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import inbox

MARKER = "demo-home.json"
OPENED = {"catalogue.db", "vault.db", "keys", "dagster", "reports", "tuf", "dvc"}  # what opening a home leaves there


class HomeInUseError(Exception):
    """The home holds state that no demo made; it is left alone."""


def claim_home(home: Path, told_with: dict[str, Any]) -> None:
    """Take an unused home or start an earlier demo's home over; never touch anything else. The marker goes last, so a
    demo that was killed while it cleared the home is simply run again.

    Args:
        told_with: what the marker says of the demo; plain JSON.

    Raises:
        HomeInUseError: somebody's work lies there.
    """
    marker = home / MARKER
    if home.exists() and not home.is_dir():
        raise HomeInUseError(f"home {home} is a file; choose another with --home")
    if not is_free(home):
        raise HomeInUseError(f"home {home} holds work that is not a demo's; choose another with --home")
    home.mkdir(parents=True, exist_ok=True)
    write_atomically(marker, json.dumps(told_with).encode())
    for child in home.iterdir():
        if child != marker:
            shutil.rmtree(child) if child.is_dir() else child.unlink()


def keep_home(home: Path) -> None:
    """What lies in `home` is somebody's work from now on: no later demo starts it over, no `make clean` removes it."""
    (home / MARKER).unlink(missing_ok=True)


def is_free(home: Path) -> bool:
    """Whether nobody's work lies in a home: it is a demo's, or was at most opened, and nobody handed in a clip."""
    if not home.exists() or (home / MARKER).exists():
        return True
    if any(child.name.split("-")[0] not in OPENED for child in home.iterdir()):
        return False
    if not (home / "catalogue.db").exists():
        return True
    return Store.open(load_settings(home)).database.scalar(select(func.count()).select_from(inbox)) == 0


def main(home: Path) -> int:
    """Exit code 0 if `home` may be removed, else 1 and a line on standard error."""
    if is_free(home):
        return 0
    typer.echo(
        f"{home} holds work that is not a demo's, such as imported clips, and nothing was removed: move it elsewhere "
        f"(`mv {home} ~/dictation`, then `export VOICE_PIPELINE_HOME=~/dictation`) or delete it yourself, then clean",
        err=True,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
