"""Where a device takes the time from: anything with `now()` that is UTC and timezone-aware."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime: ...
