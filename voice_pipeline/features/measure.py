"""Acoustic measures of a day's clips, computed once each and kept in the catalogue with the time they became known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import RowMapping, select

from voice_pipeline.speech.audio import decode
from voice_pipeline.speech.measures import measure
from voice_pipeline.store.database import insert_new
from voice_pipeline.store.errors import ErasedSubjectError, MissingBlobError
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clip_features, clips

CHUNK = 200


@dataclass(frozen=True)
class MeasureSummary:
    """`clips` of the day that may be used, `measured` now for the first time, `erased` while we worked."""

    day: str
    clips: int
    measured: int
    erased: int


def measure_day(store: Store, day: str) -> MeasureSummary:
    """Measure each clip of `day` (YYYY-MM-DD) that has no measures yet. Safe to repeat and to kill.

    Raises:
        BlobDigestError: stored audio was changed.
        MissingBlobError: the audio of a clip that was not erased is gone.
    """
    todo = select(clips).where(clips.c.capture_date == day, clips.c.erased_at.is_(None)).order_by(clips.c.clip_id)
    rows = store.database.rows(todo)
    done = store.database.rows(select(clip_features.c.clip_id).where(clip_features.c.capture_date == day))
    known = {row["clip_id"] for row in done}
    fresh = [row for row in rows if row["clip_id"] not in known]
    measured = 0
    for start in range(0, len(fresh), CHUNK):
        values = list(_measured(store, fresh[start : start + CHUNK]))
        with store.database.write() as connection:
            measured += insert_new(connection, clip_features, values)
    return MeasureSummary(day=day, clips=len(rows), measured=measured, erased=len(fresh) - measured)


def _measured(store: Store, rows: list[RowMapping]) -> Iterator[dict[str, Any]]:
    """Feature rows; a clip whose subject is erased meanwhile gives none."""
    for row in rows:
        try:
            ciphertext = store.blobs.get(row["blob_key"])
            audio = store.vault.decrypt(row["subject_token"], ciphertext, row["clip_id"])
        except (ErasedSubjectError, MissingBlobError):
            if row["subject_token"] not in store.vault.erased():
                raise
            continue
        yield {
            "clip_id": row["clip_id"],
            "capture_date": row["capture_date"],
            "values": asdict(measure(decode(audio))),
            "known_at": store.now().isoformat(),
        }
