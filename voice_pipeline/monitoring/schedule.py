"""When a day of telemetry is due for a report.

A day's event count is turned into a level: 0 at the first report, one more each time the day has grown by the policy's
share or step since the level before. A day is due when its level is above that of its oldest stored report; a day
that is over is due once more if anything came after its last report. The run key is made of the day and the level, so
ticks between two levels ask for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy import select

from voice_pipeline.monitoring.reports import JUDGED
from voice_pipeline.monitoring.windows import events_by_day
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.monitoring_policy import TelemetryPolicy
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import reports


@dataclass(frozen=True)
class DueDay:
    """A day to report on, why, and the key under which that run happens once."""

    day: str
    events: int
    run_key: str
    reason: str


def due_days(store: Store, policy: TelemetryPolicy) -> list[DueDay]:
    """Days within the lookback that have telemetry no report has seen, oldest first."""
    today = store.now().date()
    days = [(today - timedelta(days=back)).isoformat() for back in range(policy.lookback_days, -2, -1)]
    return find_due(policy, events_by_day(store, days), reported_events(store, days), today)


def reported_events(store: Store, days: list[str]) -> dict[str, int]:
    """Events that the least informed of a day's three reports has seen; 0 while one of them is missing."""
    rows = store.database.rows(
        select(reports.c.kind, reports.c.day, reports.c.report).where(
            reports.c.day.in_(days), reports.c.kind.in_(JUDGED)
        )
    )
    seen: dict[str, dict[str, int]] = {day: {} for day in days}
    for row in rows:
        seen[row["day"]][row["kind"]] = int(row["report"]["events"])
    return {day: min(counts.values()) if len(counts) == len(JUDGED) else 0 for day, counts in seen.items()}


def find_due(
    policy: TelemetryPolicy, counts: Mapping[str, int], reported: Mapping[str, int], today: date
) -> list[DueDay]:
    """Pure decision from event counts and what the stored reports have seen."""
    due = []
    for day, events in sorted(counts.items()):
        seen = reported.get(day, 0)
        now, before = level(policy, events), level(policy, seen)
        if now > before:
            key = digest({"monitoring": day, "level": now})
            due.append(DueDay(day, events, key, f"{events} events, the last report saw {seen}"))
        elif day < today.isoformat() and events > seen:
            key = digest({"monitoring": day, "final": events})
            due.append(DueDay(day, events, key, f"the day is over with {events} events, the last report saw {seen}"))
    return due


def level(policy: TelemetryPolicy, events: int) -> int:
    """How many report thresholds `events` has passed, minus one; -1 below the first."""
    reached, threshold = -1, float(policy.min_events)
    while events >= threshold:
        reached += 1
        threshold += min(policy.step_events, max(1.0, policy.growth * threshold))
    return reached
