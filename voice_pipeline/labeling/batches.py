"""Closed batches: the sets of approved labels from which dataset versions are made.

Promises: a label is in one batch at most; a closed batch never changes and its name is bound to the digest of its
clips and texts; a batch names what caused it (`reviews`, or `incident:<incident_id>` when an incident asked for any
of its labels).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, func, insert, select, update

from voice_pipeline.labeling.consented import chunks, useful_clips
from voice_pipeline.labeling.labels import unlabelled
from voice_pipeline.labeling.triage import INCIDENT_REASON
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.ids import batch_id
from voice_pipeline.schema.labeling import ReviewPass, TaskState
from voice_pipeline.schema.labeling_policy import LabelingPolicy
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import batches, label_tasks, labels, triage

CAUSE_REVIEWS = "reviews"


@dataclass(frozen=True)
class Readiness:
    """Does a batch wait to be closed? `waiting` clips are answered and in no batch; `open_tasks` leaves gold items and
    overdue tasks out. `digest` names this very set of clips."""

    ready: bool
    waiting: int
    open_tasks: int
    cause: str
    digest: str


def readiness(store: Store, policy: LabelingPolicy) -> Readiness:
    """Look, without writing, whether `resolve` and `close_batch` would close a batch that policy asks for now."""
    with store.database.read() as connection:
        settled = [outcome.clip_id for outcome in unlabelled(connection, policy) if outcome.raw_text is not None]
        clip_ids = sorted({*_unbatched(connection), *useful_clips(connection, settled)})
        still_open = connection.execute(
            select(func.count()).where(
                label_tasks.c.state == TaskState.OPEN.value,
                label_tasks.c.review_pass != ReviewPass.GOLD.value,
                label_tasks.c.deadline >= store.now().isoformat(),
            )
        ).scalar_one()
        cause = _cause(connection, clip_ids)
    enough = len(clip_ids) >= _minimum(policy, cause)
    ready = (enough and still_open == 0) or len(clip_ids) >= policy.batch.close_at_clips
    return Readiness(ready, len(clip_ids), still_open, cause, digest(clip_ids))


def close_batch(store: Store, policy: LabelingPolicy) -> str | None:
    """Close all waiting labels into one batch; its `batch_id`, or None when fewer wait than policy asks for."""
    with store.database.write() as connection:
        texts = _unbatched(connection)
        clip_ids = sorted(texts)
        cause = _cause(connection, clip_ids)
        if len(clip_ids) < _minimum(policy, cause):
            return None
        today = store.now().date()
        prefix = batch_id(today, 0)[:-3]
        used = connection.execute(select(batches.c.batch_id).where(batches.c.batch_id.startswith(prefix))).scalars()
        name = batch_id(today, max((int(other.removeprefix(prefix)) for other in used), default=0) + 1)
        connection.execute(
            insert(batches).values(
                batch_id=name,
                closed_at=store.now().isoformat(),
                digest=digest([[clip_id, texts[clip_id]] for clip_id in clip_ids]),
                clips=len(clip_ids),
                cause=cause,
            )
        )
        connection.execute(
            update(labels)
            .where(labels.c.clip_id == bindparam("clip"), labels.c.batch_id.is_(None))
            .values(batch_id=name),
            [{"clip": clip_id} for clip_id in clip_ids],
        )
    return name


def _minimum(policy: LabelingPolicy, cause: str) -> int:
    return policy.batch.min_clips if cause == CAUSE_REVIEWS else policy.batch.incident_min_clips


def _unbatched(connection: Connection) -> dict[str, str]:
    """clip_id → text of labels in no batch that may serve training or evaluation now."""
    statement = select(labels.c.clip_id, labels.c.text).where(labels.c.batch_id.is_(None))
    texts = dict(connection.execute(statement).all())
    return {clip_id: texts[clip_id] for clip_id in useful_clips(connection, list(texts))}


def _cause(connection: Connection, clip_ids: Sequence[str]) -> str:
    """The incident that asked for most of the clips, else plain reviews."""
    asked: Counter[str] = Counter()
    for chunk in chunks(clip_ids):
        for reasons in connection.execute(select(triage.c.reasons).where(triage.c.clip_id.in_(chunk))).scalars():
            asked.update(reason for reason in reasons if reason.startswith(INCIDENT_REASON))
    return min(asked, key=lambda cause: (-asked[cause], cause)) if asked else CAUSE_REVIEWS
