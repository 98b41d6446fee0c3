"""Answers: which task a reviewer gets next, and what happens when the answer comes in.

Promises: an acknowledged answer is on disk; the same answer sent twice counts once; another answer to a settled task
is refused, never merged; nobody answers twice for one clip, so the second pass is blind and the adjudicator is a
third person. A task on someone's screen is leased to them for a while, so two people do not do the same work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, case, insert, or_, select, update

from voice_pipeline.labeling.consented import reviewable_clip
from voice_pipeline.labeling.errors import (
    InvalidReviewError,
    NotBlindError,
    TaskAnsweredError,
    TaskWithdrawnError,
    UnknownTaskError,
)
from voice_pipeline.labeling.reviewers import distrusted_reviewers
from voice_pipeline.labeling.sampling import uniform
from voice_pipeline.labeling.spans import estimated_times, misheard_spans, word_distance
from voice_pipeline.labeling.tasks import ANSWERABLE, in_force_ids, new_task
from voice_pipeline.schema.labeling import MisheardSpan, Review, ReviewPass, TaskState
from voice_pipeline.schema.labeling_policy import LabelingPolicy
from voice_pipeline.speech.normalise import normalise, words_of
from voice_pipeline.store.database import insert_new
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, label_tasks, reviews, triage

SPAN_TOLERANCE_S = 0.5


@dataclass(frozen=True)
class Accepted:
    """`repeated` when this very answer was there before; `next_pass` is the pass that the answer opened, if any."""

    task_id: str
    repeated: bool
    next_pass: ReviewPass | None


@dataclass(frozen=True)
class OfferedTask:
    """What a reviewer is shown. `candidates`: the two answers an adjudicator decides between, sorted."""

    task_id: str
    review_pass: ReviewPass
    preview: str | None
    candidates: tuple[str, ...]
    duration_s: float
    deadline: str
    remaining: int


def next_task(store: Store, policy: LabelingPolicy, reviewer: str) -> OfferedTask | None:
    """Lease the most urgent task that `reviewer` may answer; None when there is none.

    Escalated tasks come first, then adjudications, second passes and the rest by triage priority.
    """
    now = store.now()
    until = (now + timedelta(minutes=policy.review.lease_minutes)).isoformat()
    with store.database.write() as connection:
        row = connection.execute(_answerable_by(reviewer, now.isoformat()).limit(1)).mappings().first()
        if row is None:
            return None
        connection.execute(
            update(label_tasks)
            .where(label_tasks.c.task_id == row["task_id"])
            .values(leased_to=reviewer, leased_until=until)
        )
        remaining = len(connection.execute(_answerable_by(reviewer, now.isoformat())).all())
        return OfferedTask(
            task_id=row["task_id"],
            review_pass=_shown_pass(row["review_pass"]),
            preview=row["preview"],
            candidates=_candidates(connection, row),
            duration_s=row["duration_s"],
            deadline=row["deadline"],
            remaining=remaining,
        )


def _answerable_by(reviewer: str, now: str) -> Any:
    mine = select(reviews.c.clip_id).where(reviews.c.reviewer == reviewer)
    urgency = case({TaskState.ESCALATED.value: 0}, value=label_tasks.c.state, else_=1)
    order = case(
        {ReviewPass.ADJUDICATION.value: 0, ReviewPass.SECOND.value: 1}, value=label_tasks.c.review_pass, else_=2
    )
    return (
        select(label_tasks, clips.c.duration_s)
        .join(clips, clips.c.clip_id == label_tasks.c.clip_id)
        .outerjoin(triage, triage.c.clip_id == label_tasks.c.clip_id)
        .where(
            label_tasks.c.state.in_(ANSWERABLE),
            label_tasks.c.clip_id.not_in(mine),
            label_tasks.c.clip_id.in_(in_force_ids()),
            or_(
                label_tasks.c.leased_until.is_(None),
                label_tasks.c.leased_until < now,
                label_tasks.c.leased_to == reviewer,
            ),
        )
        .order_by(urgency, order, triage.c.priority.desc(), label_tasks.c.task_id)
    )


def _shown_pass(stored: str) -> ReviewPass:
    """A gold item looks like any first pass: who knows that it is one answers differently."""
    return ReviewPass.FIRST if stored == ReviewPass.GOLD.value else ReviewPass(stored)


def _candidates(connection: Connection, task: RowMapping) -> tuple[str, ...]:
    if task["review_pass"] != ReviewPass.ADJUDICATION.value:
        return ()
    earlier = _earlier(connection, task["clip_id"])
    return tuple(sorted(row["transcript"] for row in earlier if row["review_pass"] != ReviewPass.GOLD.value))


def submit_review(store: Store, policy: LabelingPolicy, review: Review) -> Accepted:
    """Record one answer; see `submit_reviews`."""
    return submit_reviews(store, policy, [review])[0]


def submit_reviews(store: Store, policy: LabelingPolicy, answers: Sequence[Review]) -> list[Accepted]:
    """Record answers in one transaction, all or none, and open the passes they call for.

    Raises:
        UnknownTaskError: no such task.
        TaskWithdrawnError: the clip may no longer be reviewed.
        TaskAnsweredError: the task has another answer already.
        NotBlindError: the reviewer has answered for this clip before.
        InvalidReviewError: neither a transcript nor unintelligible, or both; or a span outside the clip.
    """
    with store.database.write() as connection:
        distrusted = distrusted_reviewers(connection, policy)
        return [_submit(store, policy, connection, answer, distrusted) for answer in answers]


def _submit(
    store: Store, policy: LabelingPolicy, connection: Connection, review: Review, distrusted: frozenset[str]
) -> Accepted:
    task = connection.execute(select(label_tasks).where(label_tasks.c.task_id == review.task_id)).mappings().first()
    if task is None:
        raise UnknownTaskError(f"task {review.task_id} does not exist; ask for the next one")
    earlier = _earlier(connection, task["clip_id"])
    if task["state"] == TaskState.DONE.value:
        return _repeated(review, earlier)
    clip = reviewable_clip(connection, task["clip_id"])
    if clip is None or task["state"] == TaskState.WITHDRAWN.value:
        raise TaskWithdrawnError(f"task {review.task_id} was withdrawn: its clip may no longer be used; go on")
    _check(policy, review, clip)
    if any(row["reviewer"] == review.reviewer for row in earlier):
        raise NotBlindError(
            f"{review.reviewer} has answered for the clip of {review.task_id} before; leave it to others"
        )
    connection.execute(insert(reviews).values(**_review_row(review, task, clip)))
    connection.execute(
        update(label_tasks)
        .where(label_tasks.c.task_id == review.task_id)
        .values(state=TaskState.DONE.value, leased_to=None, leased_until=None)
    )
    following = _next_pass(policy, task, clip, review, earlier, distrusted)
    if following is not None:
        insert_new(connection, label_tasks, [new_task(store, policy, task["clip_id"], following)])
    return Accepted(review.task_id, False, following)


def _earlier(connection: Connection, clip_id: str) -> Sequence[RowMapping]:
    return connection.execute(select(reviews).where(reviews.c.clip_id == clip_id)).mappings().all()


def _repeated(review: Review, earlier: Sequence[RowMapping]) -> Accepted:
    given = next(row for row in earlier if row["task_id"] == review.task_id)
    same = (given["reviewer"], given["transcript"], given["unintelligible"])
    if same != (review.reviewer, review.transcript, review.unintelligible):
        raise TaskAnsweredError(f"task {review.task_id} has another answer already; ask for the next one")
    return Accepted(review.task_id, True, None)


def _check(policy: LabelingPolicy, review: Review, clip: Mapping[Any, Any]) -> None:
    text = normalise(review.transcript, policy.alphabet)
    if not review.reviewer.strip():
        raise InvalidReviewError(f"answer to {review.task_id} names no reviewer; say who answers")
    if review.unintelligible and review.transcript.strip():
        raise InvalidReviewError(f"answer to {review.task_id} is unintelligible and has a transcript; choose one")
    if not review.unintelligible and not text:
        raise InvalidReviewError(f"answer to {review.task_id} has no words; write what was said or mark unintelligible")
    for span in review.spans:
        if not span.start_s <= span.end_s <= clip["duration_s"] + SPAN_TOLERANCE_S:
            raise InvalidReviewError(
                f"answer to {review.task_id} marks {span.start_s:.2f}-{span.end_s:.2f} s of a clip of "
                f"{clip['duration_s']:.2f} s; mark a stretch inside it"
            )


def _review_row(review: Review, task: RowMapping, clip: Mapping[Any, Any]) -> dict[str, Any]:
    spans = review.spans or _found_spans(review, clip)
    return {
        "task_id": review.task_id,
        "clip_id": task["clip_id"],
        "review_pass": task["review_pass"],
        "reviewer": review.reviewer,
        "transcript": review.transcript,
        "unintelligible": review.unintelligible,
        "spans": [span.model_dump() for span in spans],
        "submitted_at": review.submitted_at.isoformat(),
    }


def _found_spans(review: Review, clip: Mapping[Any, Any]) -> tuple[MisheardSpan, ...]:
    """Where the device's hypothesis differs from the answer, if it had one."""
    if clip["hypothesis"] is None or review.unintelligible:
        return ()
    times = estimated_times(words_of(clip["hypothesis"]), clip["duration_s"])
    return misheard_spans(times, words_of(review.transcript), clip["duration_s"])


def _next_pass(
    policy: LabelingPolicy,
    task: RowMapping,
    clip: Mapping[Any, Any],
    review: Review,
    earlier: Sequence[RowMapping],
    distrusted: frozenset[str],
) -> ReviewPass | None:
    if task["review_pass"] == ReviewPass.FIRST.value:
        return ReviewPass.SECOND if ambiguity(policy, clip, review, review.reviewer in distrusted) else None
    if task["review_pass"] == ReviewPass.SECOND.value:
        first = next(row for row in earlier if row["review_pass"] == ReviewPass.FIRST.value)
        same = agree(policy, first["transcript"], first["unintelligible"], review.transcript, review.unintelligible)
        return None if same else ReviewPass.ADJUDICATION
    return None


def ambiguity(policy: LabelingPolicy, clip: Mapping[Any, Any], review: Review, distrusted: bool) -> tuple[str, ...]:
    """Why a first answer needs a blind second one; empty when it stands alone."""
    rules, confidence, hypothesis = policy.review, clip["confidence"], clip["hypothesis"]
    reasons = []
    if uniform(policy.seed, "second_pass", clip["clip_id"]) < rules.second_pass_share:
        reasons.append("random")
    if review.unintelligible:
        reasons.append("unintelligible")
    if confidence is not None and confidence < rules.second_pass_below_confidence:
        reasons.append("device_unsure")
    heard = None if review.unintelligible or hypothesis is None else words_of(hypothesis)
    if heard is not None and word_distance(heard, words_of(review.transcript)) > rules.second_pass_above_distance:
        reasons.append("far_from_hypothesis")
    if distrusted:
        reasons.append("reviewer_failed_gold")
    return tuple(reasons)


def agree(policy: LabelingPolicy, text: str, unintelligible: bool, other: str, other_unintelligible: bool) -> bool:
    """Do two answers say the same, after normalisation? Case and punctuation count if labels are written with them."""
    if unintelligible or other_unintelligible:
        return unintelligible and other_unintelligible
    return normalise(text, policy.alphabet) == normalise(other, policy.alphabet)
