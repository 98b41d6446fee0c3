"""Two places for a model, one active (blue-green): an update fills the other one and then swaps in a single move.

Promise: whatever instant the power fails, `active()` is a bundle that was whole and verified when it was activated. A
new bundle lands in a staging folder, moves into the idle slot by `rename`, and becomes active by replacing one small
file; both are atomic on POSIX file systems (rename(2)). What a crash leaves behind is swept when the slots are next
opened.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from voice_pipeline.device.files import flush, replace, sweep
from voice_pipeline.trust import MANIFEST

SLOTS = ("a", "b")
STATE = "active.json"


@dataclass(frozen=True)
class InstalledBundle:
    """A bundle folder in a slot; `<folder>.sig` lies beside it. Installed, not thereby trusted: verify before use."""

    slot: str
    folder: Path

    @property
    def model_version(self) -> str:
        return self.folder.name


class Slots:
    """The two slots under one folder. One process at a time may change them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with suppress(OSError):  # a full disk: `staging` will say so
            folder.mkdir(parents=True, exist_ok=True)
        for left_over in [*folder.glob("staging-*"), *folder.glob("trash-*")]:
            shutil.rmtree(left_over, ignore_errors=True)
        sweep(folder)

    def active(self) -> InstalledBundle | None:
        """The bundle to run, None before the first activation."""
        return self._in_slot(self._active_name())

    def standby(self) -> InstalledBundle | None:
        """The other one: the model before, or the one that is about to be tried."""
        return self._in_slot(self._idle_name())

    def installed(self, model_version: str) -> InstalledBundle | None:
        """The slot that holds `model_version`, the active one first."""
        found = (
            bundle for bundle in (self.active(), self.standby()) if bundle and bundle.model_version == model_version
        )
        return next(found, None)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty folder on the slots' own file system; gone afterwards unless it was installed."""
        folder = self._folder / f"staging-{secrets.token_hex(6)}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def install(self, staged: Path) -> InstalledBundle:
        """Move a verified staging folder (`<model_version>/` and `<model_version>.sig`) into the idle slot."""
        name = self._idle_name() or SLOTS[0]
        target = self._folder / name
        for path in [*staged.rglob("*"), staged]:
            flush(path)  # a full disk may only say so now: before the slot is emptied
        if target.exists():
            trash = self._folder / f"trash-{secrets.token_hex(6)}"
            target.rename(trash)
            shutil.rmtree(trash, ignore_errors=True)
        staged.rename(target)
        flush(self._folder)
        installed = self._in_slot(name)
        if installed is None:
            raise FileNotFoundError(f"staging folder {staged.name} held no bundle")
        return installed

    def activate(self, bundle: InstalledBundle) -> None:
        """Make `bundle` the active one; the former stays installed as standby."""
        replace(self._folder / STATE, json.dumps({"slot": bundle.slot}).encode())

    def _active_name(self) -> str | None:
        try:
            name = json.loads((self._folder / STATE).read_text())["slot"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return name if name in SLOTS else None

    def _idle_name(self) -> str | None:
        """The slot that is not active; None while nothing was ever activated or installed."""
        active = self._active_name()
        if active is not None:
            return SLOTS[1 - SLOTS.index(active)]
        return next((name for name in SLOTS if self._in_slot(name)), None)

    def _in_slot(self, name: str | None) -> InstalledBundle | None:
        if name is None:
            return None
        folders = [path.parent for path in sorted((self._folder / name).glob(f"*/{MANIFEST}"))]
        return InstalledBundle(name, folders[0]) if folders else None
