"""One export that kills its own process at a chosen step; `test_app_build.py` gives it a process of its own.

A step is anything that the interpreter audits and that can change or read a file: the process dies (SIGKILL, as when
the power fails) just before the n-th of them.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from voice_pipeline.packaging.app_build import export_for_app
from voice_pipeline.packaging.platforms import AppPlatform
from voice_pipeline.settings import load_settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store

STEPS = ("open", "os.", "shutil.", "tempfile.", "sqlite3.")


def export(home: Path, model_version: str, folder: Path, now: datetime, die_at: int, log: Path) -> None:
    """Export for Android; die at step `die_at` (0: never). The number of steps taken is left in `log`."""
    taken = [0]

    def step(event: str, _arguments: tuple[Any, ...]) -> None:
        if event.startswith(STEPS):
            taken[0] += 1
            if taken[0] == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    store = Store.open(load_settings(home), ManualClock(now))
    sys.addaudithook(step)
    export_for_app(store, model_version, AppPlatform.ANDROID, folder)
    total = taken[0]
    log.write_text(str(total))
