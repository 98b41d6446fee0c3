"""From answers to labels: agreement or adjudication, then one versioned normalisation.

Promises: a clip gets at most one label, and once written it does not change; a clip still being asked about gets
none; who wrote it, how it was settled, and by which rules and in which alphabet it is written is kept with it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from voice_pipeline.labeling.reviews import agree
from voice_pipeline.labeling.tasks import ANSWERABLE, in_force_ids
from voice_pipeline.schema.labeling import LabelMethod, ReviewPass
from voice_pipeline.schema.labeling_policy import LabelingPolicy
from voice_pipeline.speech.normalise import label_form, normalise
from voice_pipeline.store.database import insert_new
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import label_tasks, labels, reviews


@dataclass(frozen=True)
class Settled:
    """What the answers for one clip come to. `raw_text` is None when people could not make out a word."""

    clip_id: str
    raw_text: str | None
    method: LabelMethod
    reviewers: tuple[str, ...]


@dataclass(frozen=True)
class ResolveSummary:
    """`labelled` new labels; `unintelligible` clips get none; `agreement` is None without second passes."""

    labelled: int
    methods: dict[str, int]
    unintelligible: int
    agreement: float | None


def settle(policy: LabelingPolicy, answers: Mapping[str, Mapping[Any, Any]]) -> Settled | None:
    """What the answers for one clip, by review pass, come to; None while they wait for another."""
    first, second = answers.get(ReviewPass.FIRST.value), answers.get(ReviewPass.SECOND.value)
    third = answers.get(ReviewPass.ADJUDICATION.value)
    if first is None:
        return None
    names = tuple(row["reviewer"] for row in (first, second, third) if row is not None)
    if third is not None:
        return _settled(third, LabelMethod.ADJUDICATED, names)
    if second is None:
        return _settled(first, LabelMethod.SINGLE, names)
    same = agree(policy, first["transcript"], first["unintelligible"], second["transcript"], second["unintelligible"])
    return _settled(first, LabelMethod.AGREED, names) if same else None


def _settled(row: Mapping[Any, Any], method: LabelMethod, names: tuple[str, ...]) -> Settled:
    return Settled(row["clip_id"], None if row["unintelligible"] else row["transcript"], method, names)


def unlabelled(connection: Connection, policy: LabelingPolicy) -> list[Settled]:
    """Everything settled that has no label yet, of clips that may still be used, in clip order."""
    asked = select(label_tasks.c.clip_id).where(
        label_tasks.c.state.in_(ANSWERABLE), label_tasks.c.review_pass != ReviewPass.GOLD.value
    )
    statement = select(reviews).where(
        reviews.c.review_pass != ReviewPass.GOLD.value,
        reviews.c.clip_id.not_in(select(labels.c.clip_id)),
        reviews.c.clip_id.not_in(asked),
        reviews.c.clip_id.in_(in_force_ids()),
    )
    answers: dict[str, dict[str, Mapping[Any, Any]]] = defaultdict(dict)
    for row in connection.execute(statement.order_by(reviews.c.clip_id)).mappings():
        answers[row["clip_id"]][row["review_pass"]] = row
    settled = (settle(policy, by_pass) for by_pass in answers.values())
    return [outcome for outcome in settled if outcome is not None]


def resolve(store: Store, policy: LabelingPolicy) -> ResolveSummary:
    """Write a label for every clip whose answers are settled."""
    with store.database.write() as connection:
        settled = unlabelled(connection, policy)
        rows = [_label_row(store, policy, outcome) for outcome in settled if outcome.raw_text is not None]
        insert_new(connection, labels, rows)
        rate = agreement(connection, policy)
    return ResolveSummary(
        labelled=len(rows),
        methods=dict(sorted(Counter(row["method"] for row in rows).items())),
        unintelligible=len(settled) - len(rows),
        agreement=rate,
    )


def _label_row(store: Store, policy: LabelingPolicy, outcome: Settled) -> dict[str, Any]:
    return {
        "clip_id": outcome.clip_id,
        "text": normalise(outcome.raw_text or "", policy.alphabet),
        "raw_text": outcome.raw_text,
        "normaliser_version": label_form(policy.alphabet),
        "method": outcome.method.value,
        "reviewers": list(outcome.reviewers),
        "approved_at": store.now().isoformat(),
    }


def agreement(connection: Connection, policy: LabelingPolicy) -> float | None:
    """Share of second passes that said the same as the first; None where there was none."""
    first, second = reviews.alias("first"), reviews.alias("second")
    statement = (
        select(first.c.transcript, first.c.unintelligible, second.c.transcript, second.c.unintelligible)
        .join(second, second.c.clip_id == first.c.clip_id)
        .where(first.c.review_pass == ReviewPass.FIRST.value, second.c.review_pass == ReviewPass.SECOND.value)
    )
    same = [agree(policy, *row) for row in connection.execute(statement)]
    return sum(same) / len(same) if same else None
