"""Tasks: what people are asked. One task a clip and pass, opened from the triage decision.

Promises: a task is opened at most once (its id is the digest of clip and pass); a clip that may no longer be
reviewed has its open tasks withdrawn, with the texts they showed; a task past its deadline is escalated and holds no
batch back. Some tasks hide the machine's preview (anchoring control), some have a known answer (gold items that
score reviewers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, func, select, update

from voice_pipeline.labeling.consented import in_force, only_reviewable
from voice_pipeline.labeling.sampling import uniform
from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.labeling import LabelMethod, ReviewPass, TaskState
from voice_pipeline.schema.labeling_policy import LabelingPolicy
from voice_pipeline.store.database import insert_new
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, label_tasks, labels, triage

ANSWERABLE = (TaskState.OPEN.value, TaskState.ESCALATED.value)
KNOWN_ANSWER = (LabelMethod.AGREED.value, LabelMethod.ADJUDICATED.value)


@dataclass(frozen=True)
class TaskSummary:
    """What `open_tasks` did, and how many tasks of each state there are now."""

    opened: int
    gold: int
    withdrawn: int
    escalated: int
    states: dict[str, int]


def task_id(clip_id: str, review_pass: ReviewPass) -> str:
    return f"task-{digest([clip_id, review_pass])[:24]}"


def new_task(
    store: Store,
    policy: LabelingPolicy,
    clip_id: str,
    review_pass: ReviewPass,
    preview: str | None = None,
    gold_text: str | None = None,
) -> dict[str, Any]:
    """The row of a fresh task."""
    now = store.now()
    return {
        "task_id": task_id(clip_id, review_pass),
        "clip_id": clip_id,
        "review_pass": review_pass.value,
        "state": TaskState.OPEN.value,
        "preview": preview,
        "gold_text": gold_text,
        "opened_at": now.isoformat(),
        "deadline": (now + timedelta(hours=policy.review.deadline_hours)).isoformat(),
    }


def open_tasks(store: Store, policy: LabelingPolicy) -> TaskSummary:
    """Open the first pass of every selected clip that has none, add gold items, withdraw and escalate what is due."""
    with store.database.write() as connection:
        fresh = _selected_without_task(connection)
        rows = [
            new_task(store, policy, row["clip_id"], ReviewPass.FIRST, preview=_preview(policy, row)) for row in fresh
        ]
        gold = _gold_tasks(store, policy, connection, [row["clip_id"] for row in fresh])
        opened = insert_new(connection, label_tasks, rows)
        added = insert_new(connection, label_tasks, gold)
        withdrawn = withdraw_forbidden(connection)
        escalated = _escalate_overdue(store, connection)
        by_state = select(label_tasks.c.state, func.count()).group_by(label_tasks.c.state)
        states: dict[str, int] = dict(connection.execute(by_state).all())
    return TaskSummary(opened, added, withdrawn, escalated, states)


def _selected_without_task(connection: Connection) -> list[Mapping[Any, Any]]:
    asked = select(label_tasks.c.clip_id).where(label_tasks.c.review_pass == ReviewPass.FIRST.value)
    statement = (
        in_force(clips.c.clip_id, clips.c.hypothesis)
        .join(triage, triage.c.clip_id == clips.c.clip_id)
        .where(triage.c.selected, clips.c.clip_id.not_in(asked))
        .order_by(clips.c.clip_id)
    )
    return only_reviewable(connection.execute(statement).mappings().all())


def _preview(policy: LabelingPolicy, row: Mapping[Any, Any]) -> str | None:
    hidden = uniform(policy.seed, "hidden_preview", row["clip_id"]) < policy.review.hidden_preview_share
    return None if hidden else row["hypothesis"]


def _gold_tasks(
    store: Store, policy: LabelingPolicy, connection: Connection, opened: Sequence[str]
) -> list[dict[str, Any]]:
    """For a share of the opened tasks, one already settled clip each, which then is never used as gold again."""
    wanted = sum(uniform(policy.seed, "gold", clip_id) < policy.review.gold_share for clip_id in opened)
    if not wanted:
        return []
    used = select(label_tasks.c.clip_id).where(label_tasks.c.review_pass == ReviewPass.GOLD.value)
    statement = (
        in_force(clips.c.clip_id, labels.c.text)
        .join(labels, labels.c.clip_id == clips.c.clip_id)
        .where(labels.c.method.in_(KNOWN_ANSWER), clips.c.clip_id.not_in(used))
    )
    settled = only_reviewable(connection.execute(statement).mappings().all())
    settled.sort(key=lambda row: uniform(policy.seed, "gold_item", row["clip_id"]))
    return [new_task(store, policy, r["clip_id"], ReviewPass.GOLD, gold_text=r["text"]) for r in settled[:wanted]]


def withdraw_forbidden(connection: Connection) -> int:
    """Withdraw answerable tasks of clips that were erased or whose consent was revoked; their texts go too."""
    statement = select(label_tasks.c.task_id).where(
        label_tasks.c.state.in_(ANSWERABLE), label_tasks.c.clip_id.not_in(in_force_ids())
    )
    forbidden = connection.execute(statement).scalars().all()
    for task in forbidden:
        connection.execute(
            update(label_tasks)
            .where(label_tasks.c.task_id == task)
            .values(state=TaskState.WITHDRAWN.value, preview=None, gold_text=None)
        )
    return len(forbidden)


def in_force_ids() -> Any:
    """Subselect of the ids of clips that are not erased and whose consent is not revoked."""
    return in_force(clips.c.clip_id).with_only_columns(clips.c.clip_id)


def _escalate_overdue(store: Store, connection: Connection) -> int:
    result = connection.execute(
        update(label_tasks)
        .where(label_tasks.c.state == TaskState.OPEN.value, label_tasks.c.deadline < store.now().isoformat())
        .values(state=TaskState.ESCALATED.value)
    )
    return int(result.rowcount)
