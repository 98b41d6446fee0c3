"""What is held, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select

from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, consents, inbox, quarantine


def catalogue_summary(store: Store) -> dict[str, Any]:
    """Clips, speakers, hours and days of all clips that are not erased, and clips by source."""
    row = store.database.row(
        select(
            func.count().label("clips"),
            func.count(clips.c.subject_token.distinct()).label("speakers"),
            func.coalesce(func.sum(clips.c.duration_s), 0.0).label("seconds"),
            func.count(clips.c.capture_date.distinct()).label("days"),
        ).where(clips.c.erased_at.is_(None))
    )
    sources = store.database.rows(
        select(clips.c.source, func.count().label("n")).where(clips.c.erased_at.is_(None)).group_by(clips.c.source)
    )
    figures = dict(row) if row else {"clips": 0, "speakers": 0, "seconds": 0.0, "days": 0}
    figures["hours"] = round(figures.pop("seconds") / 3600, 3)
    return {**figures, "sources": {source["source"]: source["n"] for source in sources}}


def quarantined_on(store: Store, days: Sequence[str]) -> Counter[str]:
    """Quarantine entries of `days` by reason."""
    rows = store.database.rows(select(quarantine.c.reason).where(quarantine.c.capture_date.in_(days)))
    return Counter(row["reason"] for row in rows)


def captured_on(store: Store, days: Sequence[str]) -> int:
    """Clips of `days`, erased ones too."""
    return int(store.database.scalar(select(func.count()).where(clips.c.capture_date.in_(days))) or 0)


def waiting_by_day(store: Store) -> dict[str, list[str]]:
    """Event ids that no run has taken in yet, in order, by capture day."""
    rows = store.database.rows(
        select(inbox.c.capture_date, inbox.c.event_id)
        .where(inbox.c.state == "new")
        .order_by(inbox.c.capture_date, inbox.c.event_id)
    )
    waiting: dict[str, list[str]] = {}
    for row in rows:
        waiting.setdefault(row["capture_date"], []).append(row["event_id"])
    return waiting


def unconsented(store: Store) -> list[str]:
    """Ids of clips that are held although their consent is revoked or missing; there should be none."""
    rows = store.database.rows(
        select(clips.c.clip_id)
        .join(consents, consents.c.consent_id == clips.c.consent_id, isouter=True)
        .where(clips.c.erased_at.is_(None), consents.c.consent_id.is_(None) | consents.c.revoked_at.is_not(None))
    )
    return [row["clip_id"] for row in rows]


def newest_day(store: Store) -> str | None:
    """The newest day with a clip or a refusal."""
    days = [store.database.scalar(select(func.max(table.c.capture_date))) for table in (clips, quarantine)]
    return max((day for day in days if day), default=None)
