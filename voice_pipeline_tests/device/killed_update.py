"""One device update that kills its own process at a chosen step; `test_killed_update.py` gives it a process of its own.

A step is anything that the interpreter audits and that can change or read a file or talk to the network: the process
dies (SIGKILL, as when the power fails) just before the n-th of them.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from voice_pipeline.device.client import DeviceClient
from voice_pipeline.schema.clip import DeviceContext
from voice_pipeline.store.clock import ManualClock

STEPS = ("open", "os.", "shutil.", "tempfile.", "sqlite3.", "socket.connect")


def update(home: Path, url: str, context: DeviceContext, root: bytes, now: datetime, die_at: int, log: Path) -> None:
    """Poll and update; die at step `die_at` (0: never). The number of steps taken is left in `log`."""
    taken = [0]

    def step(event: str, _arguments: tuple[Any, ...]) -> None:
        if event.startswith(STEPS):
            taken[0] += 1
            if taken[0] == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    with httpx.Client(timeout=5) as http:
        sys.addaudithook(step)
        device = DeviceClient(home, url, http, "device-0001", context, root, ManualClock(now))
        device.poll()
        device.update()
    total = taken[0]
    log.write_text(str(total))
