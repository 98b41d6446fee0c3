"""How well reviewers do, measured on gold items: clips whose answer two people had agreed on before."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from voice_pipeline.labeling.spans import word_distance
from voice_pipeline.schema.labeling import ReviewPass
from voice_pipeline.schema.labeling_policy import LabelingPolicy
from voice_pipeline.speech.normalise import words_of
from voice_pipeline.store.tables import label_tasks, reviews


@dataclass(frozen=True)
class ReviewerScore:
    """Gold items answered and the mean word error on them (edits over words of the known answer)."""

    reviewer: str
    items: int
    wer: float


def reviewer_scores(connection: Connection, policy: LabelingPolicy) -> list[ReviewerScore]:
    """One score a reviewer who has answered gold items, by name."""
    statement = (
        select(reviews.c.reviewer, reviews.c.transcript, label_tasks.c.gold_text)
        .join(label_tasks, label_tasks.c.task_id == reviews.c.task_id)
        .where(label_tasks.c.review_pass == ReviewPass.GOLD.value, label_tasks.c.gold_text.is_not(None))
    )
    errors: dict[str, list[float]] = {}
    for reviewer, transcript, known in connection.execute(statement):
        errors.setdefault(reviewer, []).append(word_distance(words_of(transcript), words_of(known)))
    return [ReviewerScore(name, len(values), sum(values) / len(values)) for name, values in sorted(errors.items())]


def distrusted_reviewers(connection: Connection, policy: LabelingPolicy) -> frozenset[str]:
    """Reviewers with enough gold items and too many errors on them: all they answer gets a second pass."""
    rules = policy.review
    scores = reviewer_scores(connection, policy)
    return frozenset(s.reviewer for s in scores if s.items >= rules.gold_min_items and s.wer > rules.gold_max_wer)
