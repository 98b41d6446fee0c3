"""What must hold of triage, tasks, labels and batches, looked up in the tables themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from voice_pipeline.labeling.consented import reviewable, useful
from voice_pipeline.labeling.labels import agreement
from voice_pipeline.labeling.reviewers import reviewer_scores
from voice_pipeline.labeling.tasks import ANSWERABLE
from voice_pipeline.schema.labeling_policy import LabelingPolicy
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, consents, label_tasks, labels, triage


@dataclass(frozen=True)
class Finding:
    """Whether it holds, and the figures that say so (plain JSON)."""

    holds: bool
    figures: dict[str, Any]


def triage_complete(store: Store) -> Finding:
    """Every clip of a day that was triaged has a route."""
    days = select(triage.c.capture_date).distinct()
    missing = store.database.scalar(
        select(func.count())
        .select_from(clips.outerjoin(triage, triage.c.clip_id == clips.c.clip_id))
        .where(clips.c.erased_at.is_(None), clips.c.capture_date.in_(days), triage.c.clip_id.is_(None))
    )
    return Finding(missing == 0, {"clips_without_route": missing})


def nobody_asked_without_consent(store: Store) -> Finding:
    """No task that can be answered is about a clip that was erased or may not be reviewed."""
    rows = store.database.rows(
        select(label_tasks.c.task_id, clips.c.erased_at, consents.c.scopes, consents.c.revoked_at)
        .join(clips, clips.c.clip_id == label_tasks.c.clip_id)
        .outerjoin(consents, consents.c.consent_id == clips.c.consent_id)
        .where(label_tasks.c.state.in_(ANSWERABLE))
    )
    wrong = [r["task_id"] for r in rows if r["erased_at"] or r["revoked_at"] or not r["scopes"] or not reviewable(r)]
    return Finding(not wrong, {"tasks": len(rows), "forbidden": len(wrong), "first": wrong[:5]})


def audit_stream_kept(store: Store, policy: LabelingPolicy) -> Finding:
    """The random audit stream is as large as its share says, within three standard deviations."""
    usable = select(triage.c.audit).where(triage.c.inclusion_probability > 0)
    drawn = [bool(row["audit"]) for row in store.database.rows(usable)]
    share, n = policy.budget.audit_share, len(drawn)
    slack = 3 * (share * (1 - share) * n) ** 0.5 + 1
    return Finding(abs(sum(drawn) - share * n) <= slack, {"clips": n, "audited": sum(drawn), "share": share})


def reviewers_agree(store: Store, policy: LabelingPolicy) -> Finding:
    """Blind second passes agree often enough, and no reviewer fails the gold items."""
    with store.database.read() as connection:
        rate, scores = agreement(connection, policy), reviewer_scores(connection, policy)
    rules = policy.review
    failed = [s.reviewer for s in scores if s.items >= rules.gold_min_items and s.wer > rules.gold_max_wer]
    holds = (rate is None or rate >= rules.min_agreement) and not failed
    figures = {"agreement": rate, "failed_gold": failed, "gold": {s.reviewer: [s.items, s.wer] for s in scores}}
    return Finding(holds, figures)


def labels_have_words(store: Store) -> Finding:
    """Every label has text after normalisation."""
    empty = store.database.scalar(select(func.count()).where(labels.c.text == ""))
    return Finding(empty == 0, {"empty_labels": empty})


def batches_are_consented(store: Store) -> Finding:
    """Labels of closed batches are of clips that allow training or evaluation (revoked ones are dropped downstream)."""
    rows = store.database.rows(
        select(labels.c.clip_id, consents.c.scopes)
        .join(clips, clips.c.clip_id == labels.c.clip_id)
        .join(consents, consents.c.consent_id == clips.c.consent_id)
        .where(labels.c.batch_id.is_not(None))
    )
    wrong = [row["clip_id"] for row in rows if not useful(row)]
    return Finding(not wrong, {"labels": len(rows), "forbidden": len(wrong), "first": wrong[:5]})
