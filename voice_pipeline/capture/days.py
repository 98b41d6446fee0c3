"""Which day's partition an event belongs to.

A device's clock is a claim. It is believed when it lies at most `MAX_AGE` behind and `MAX_AHEAD` before the time of
receipt, and not before the first partition; otherwise the day of receipt counts. So no event can name a partition
that does not exist, nor reopen one long closed.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

FIRST_DAY = date(2026, 1, 1)
"""Start of the `capture_date` partitions."""

MAX_AGE = timedelta(days=90)
MAX_AHEAD = timedelta(minutes=10)


def partition_day(claimed: datetime, received: datetime) -> str:
    """Partition key `YYYY-MM-DD` (UTC) of an event a device dates `claimed` and we received at `received` (aware)."""
    believed = -MAX_AHEAD <= received - claimed <= MAX_AGE and claimed.astimezone(UTC).date() >= FIRST_DAY
    instant = min(claimed, received) if believed else received
    return instant.astimezone(UTC).date().isoformat()
