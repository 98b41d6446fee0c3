"""Which clips may be touched right now: not erased, and under a consent that is in force and allows the purpose.

Asked anew at every step (task, playback, answer, label, batch), because a consent can be revoked between any two of
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, select

from voice_pipeline.schema.consent import Scope
from voice_pipeline.store.tables import clips, consents

CHUNK = 500  # ids in one statement; SQLite allows 32,766 parameters, PostgreSQL's driver fewer


def in_force(*columns: Any) -> Select[Any]:
    """A select over clips that are not erased and whose consent is not revoked; it always carries `scopes`."""
    return (
        select(*columns, consents.c.scopes)
        .select_from(clips.join(consents, consents.c.consent_id == clips.c.consent_id))
        .where(clips.c.erased_at.is_(None), consents.c.revoked_at.is_(None))
    )


def reviewable(row: Mapping[Any, Any]) -> bool:
    """May a person listen to it?"""
    return Scope.TRANSCRIBE_REVIEW.value in row["scopes"]


def useful(row: Mapping[Any, Any]) -> bool:
    """May its label serve training or evaluation?"""
    return bool({Scope.TRAIN.value, Scope.EVALUATE.value} & set(row["scopes"]))


def reviewable_clip(connection: Connection, clip_id: str) -> Mapping[Any, Any] | None:
    """The clip's row if a person may listen to it now, else None."""
    row = connection.execute(in_force(clips).where(clips.c.clip_id == clip_id)).mappings().first()
    return row if row is not None and reviewable(row) else None


def only_reviewable(rows: Iterable[Mapping[Any, Any]]) -> list[Mapping[Any, Any]]:
    return [row for row in rows if reviewable(row)]


def chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """`ids` in runs short enough for one statement."""
    for start in range(0, len(ids), CHUNK):
        yield ids[start : start + CHUNK]


def useful_clips(connection: Connection, clip_ids: Sequence[str]) -> set[str]:
    """Those of `clip_ids` whose label may serve training or evaluation now."""
    found: set[str] = set()
    for chunk in chunks(clip_ids):
        rows = connection.execute(in_force(clips.c.clip_id).where(clips.c.clip_id.in_(chunk))).mappings()
        found |= {row["clip_id"] for row in rows if useful(row)}
    return found
