"""One device update that kills its own process at a chosen step; `test_killed_update.py` gives it a process of its own.

A step is a line of the device's own code (what reads the network apart), or anything else that the interpreter audits
and that can change or read a file or talk to the network: the process dies (SIGKILL, as when the power fails) just
before the n-th of them. So it also dies between a write and its flush, with the bytes still in memory.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from voice_pipeline import device as device_package
from voice_pipeline.device.client import DeviceClient
from voice_pipeline.schema.clip import DeviceContext
from voice_pipeline.store.clock import ManualClock

STEPS = ("open", "os.", "shutil.", "tempfile.", "sqlite3.", "socket.connect")
OWN_CODE = Path(device_package.__file__).parent
BY_CHUNK = {str(OWN_CODE / name) for name in ("exchange.py", "fetching.py")}
"""They read the network in as many pieces as it comes in; their lines would number all later steps differently."""


def update(home: Path, url: str, context: DeviceContext, root: bytes, now: datetime, die_at: int, log: Path) -> None:
    """Poll and update; die at step `die_at` (0: never). Left in `log`: the number of steps taken, and of them the one
    that moved a file to its place among the slots for the last time: the swap.
    """
    taken = [0]
    swap = [0]

    def step() -> None:
        taken[0] += 1
        if taken[0] == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def audited(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(STEPS):
            step()
        if event == "os.rename" and Path(os.fsdecode(arguments[1])).parent == home / "slots":
            swap[0] = taken[0]

    def called(frame: FrameType, _event: str, _argument: Any) -> Any:
        file = frame.f_code.co_filename
        return traced if file.startswith(str(OWN_CODE)) and file not in BY_CHUNK else None

    def traced(_frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            step()
        return traced

    with httpx.Client(timeout=5) as http:
        sys.addaudithook(audited)
        sys.settrace(called)
        device = DeviceClient(home, url, http, "device-0001", context, root, ManualClock(now))
        device.poll()
        device.update()
        sys.settrace(None)
    total = taken[0]
    log.write_text(f"{total} {swap[0]}")
