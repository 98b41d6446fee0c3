"""An outbox whose process dies in the middle; `test_killed_outbox.py` gives it a process of its own.

It dies (SIGKILL, as when the power fails) after so many steps of SQLite's virtual machine, anywhere inside a
statement, or when its parent says so. What was acknowledged is told through a pipe before the next thing is done.
"""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

from voice_pipeline.device.outbox import Letter, Outbox

BATCH = 7


def letters(batch: int) -> list[Letter]:
    """Those of one call: telemetry of some length."""
    return [Letter(name(batch, number), '{"x": "' + "y" * 300 + '"}') for number in range(BATCH)]


def name(batch: int, number: int) -> str:
    return f"event-{batch:04}-{number}"


def work(path: Path, die_at: int, told: Connection, batches: int) -> None:
    """Add batches and have every second one acknowledged; die at step `die_at` (0: never). Tells `("added", n)`,
    `("sent", n)`, and last `("steps", total)`.
    """
    taken = [0]

    def step() -> int:
        taken[0] += 1
        if taken[0] == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    outbox = Outbox(path)
    connection = outbox._open()
    connection.set_progress_handler(step, 1)
    for batch in range(batches):
        outbox.add("telemetry", letters(batch))
        told.send(("added", batch))
        if batch % 2:
            outbox.sent("telemetry", [letter.event_id for letter in letters(batch - 1)])
            told.send(("sent", batch - 1))
    told.send(("steps", taken[0]))
