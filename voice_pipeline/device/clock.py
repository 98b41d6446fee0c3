"""Where a device takes the time from, and what it remembers, so that a clock set back makes no old news fresh.

The attack: whoever keeps a device from new metadata (a freeze) is found out when the timestamp expires, unless the
device's clock can be set back as well. So a device remembers the latest time it ever saw, and judges expiry by

    reference = max(now, min(latest, expiry of the timestamp metadata it holds))

- A timestamp that this device holds and once saw expired stays expired, whatever its clock says later: `latest` is at
  or past its expiry then, and so is the reference. Only a newer timestamp replaces it; older ones are a rollback.
- `min`: a clock that was once far in the future must not starve the device. A newer timestamp, with a later expiry
  than the one held, is fresh at that reference, and is taken.
- But once it is taken it is the one held, and with a `latest` in the far future it would count as expired from the
  next look on. It cannot both have been fresh and lie in the past: `latest` was wrong (or the clock is wrong now;
  nothing on a device can tell these apart). So when the timestamp held changes, a `latest` at or past the new one's
  expiry falls back to the reference that the new one was judged by, at the least the expiry of the one before.
  Without this step the device could fetch once for each new timestamp, and not again before the next.

What is left to an attacker who sets the clock back: timestamps that were signed after the one held, and that this
device has not seen; each can be shown as fresh, in their order, until the clock comes right.
The record is one small file, replaced in one move. Lost or damaged it means: nothing remembered.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from voice_pipeline.device.files import replace

WORTH_WRITING = timedelta(minutes=10)
"""By how much `latest` must have grown to be written again: flash memory wears."""


class Clock(Protocol):
    """Gives the current instant, UTC and timezone-aware."""

    def now(self) -> datetime: ...


@dataclass(frozen=True)
class HeldTimestamp:
    """The timestamp metadata that a device holds: which one, and when it expires."""

    version: int
    expires: datetime


@dataclass(frozen=True)
class Remembered:
    """The latest time a device saw, and the timestamp metadata that it held when this was written."""

    latest: datetime
    held: HeldTimestamp | None

    def seen(self, now: datetime, held: HeldTimestamp | None) -> Remembered:
        """What is remembered after a look at the clock while `held` is held."""
        latest = self.latest
        if held is not None and held != self.held and latest >= held.expires:
            latest = min(latest, self.held.expires) if self.held else now
        return Remembered(max(latest, now), held)

    def reference(self, now: datetime) -> datetime:
        """The time by which expiry is judged."""
        return max(now, min(self.latest, self.held.expires)) if self.held else now


class TimeMemory:
    """`Remembered` in a file. One process at a time works on it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def look(self, now: datetime, held: HeldTimestamp | None) -> datetime:
        """Remember `now`, and return the reference time by which expiry is judged."""
        before = self._read()
        after = before.seen(now, held) if before else Remembered(now, held)
        if before is None or after.held != before.held or _is_news(before, after):
            self._write(after)
        return after.reference(now)

    def _read(self) -> Remembered | None:
        try:
            content = json.loads(self._path.read_bytes())
            held = content["held"] and HeldTimestamp(content["held"]["version"], _time(content["held"]["expires"]))
            return Remembered(_time(content["latest"]), held)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write(self, remembered: Remembered) -> None:
        held = remembered.held
        content = {
            "latest": remembered.latest.isoformat(),
            "held": {"version": held.version, "expires": held.expires.isoformat()} if held else None,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace(self._path, json.dumps(content).encode())


def _is_news(before: Remembered, after: Remembered) -> bool:
    """Whether the latest time has grown by much, or past the expiry of the timestamp held."""
    expired = after.held is not None and before.latest < after.held.expires <= after.latest
    return expired or abs(after.latest - before.latest) >= WORTH_WRITING


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("a remembered time has no zone")
    return time.astimezone(UTC)
