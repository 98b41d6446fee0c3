"""Replacing a file in one move, on a system that opens folders and on one that does not."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from voice_pipeline.device import files
from voice_pipeline.device.assignment import AssignmentFile, DeviceAssignment, Flags
from voice_pipeline.device.clock import TimeMemory
from voice_pipeline.device.slots import InstalledBundle, Slots

Write = Callable[[Path], Path]
NOW = datetime(2026, 11, 2, 9, tzinfo=UTC)


def lease(folder: Path) -> Path:
    AssignmentFile(folder / "assignment.json").keep(Flags(DeviceAssignment(model_version="m-1")), NOW)
    return folder / "assignment.json"


def time(folder: Path) -> Path:
    TimeMemory(folder / "time.json").look(NOW, None)
    return folder / "time.json"


def swap(folder: Path) -> Path:
    Slots(folder).activate(InstalledBundle("b", folder / "b" / "m-1"))
    return folder / "active.json"


WRITES = [lease, time, swap]


@pytest.mark.parametrize("write", WRITES)
def test_file_and_folder_are_on_the_disk_in_that_order_about_the_move(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, bool]] = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        told.append(("folder" if path == tmp_path else path.suffix, any(tmp_path.glob("*.json"))))
        sync(descriptor)

    monkeypatch.setattr(files.os, "fsync", watched)
    written = write(tmp_path)
    assert told == [(".tmp", False), ("folder", True)]
    assert list(tmp_path.iterdir()) == [written]


@pytest.mark.parametrize("write", WRITES)
def test_a_system_that_opens_no_folder_and_flushes_only_what_is_open_for_writing(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, flushed = os.open, []

    def as_on_windows(path: Path, flags: int, *more: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        descriptor = opened(path, flags, *more)
        if flags & os.O_RDWR:
            flushed.append(descriptor)
        return descriptor

    def only_writable(descriptor: int) -> None:
        if descriptor not in flushed:
            raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(files, "WINDOWS", True)
    monkeypatch.setattr(files.os, "open", as_on_windows)
    monkeypatch.setattr(files.os, "fsync", only_writable)
    assert write(tmp_path).stat().st_size
    assert len(flushed) == 1


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_the_former_content_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    files.replace(tmp_path / "file", b"former")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    owner: object = files.os if fails == "fsync" else Path
    monkeypatch.setattr(owner, fails, full)
    with pytest.raises(OSError, match="No space"):
        files.replace(tmp_path / "file", b"coming")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"former")]


def test_what_a_killed_replacement_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".assignment.json.abc.tmp").write_bytes(b"{")
    (tmp_path / "assignment.json").write_bytes(b"{}")
    files.sweep(tmp_path)
    files.sweep(tmp_path / "not there yet")
    assert [path.name for path in tmp_path.iterdir()] == ["assignment.json"]
