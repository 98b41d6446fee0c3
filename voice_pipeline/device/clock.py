"""Where a device takes the time from: anything with `now()` that is UTC and timezone-aware."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime: ...


class DeviceClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)
