"""Answers are durable, counted once, blind, and settled by agreement or a third person."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from voice_pipeline.fleet.reviewers import SimulatedReviewers
from voice_pipeline.labeling.errors import (
    InvalidReviewError,
    NotBlindError,
    TaskAnsweredError,
    TaskWithdrawnError,
    UnknownTaskError,
)
from voice_pipeline.labeling.labels import resolve
from voice_pipeline.labeling.reviewers import reviewer_scores
from voice_pipeline.labeling.reviews import OfferedTask, next_task, submit_review, submit_reviews
from voice_pipeline.labeling.tasks import open_tasks
from voice_pipeline.labeling.triage import triage_day
from voice_pipeline.schema.labeling import MisheardSpan, Review, ReviewPass
from voice_pipeline.schema.labeling_policy import LabelingPolicy, load_labeling_policy
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import consents, label_tasks, labels, reviews
from voice_pipeline_tests.labeling.catalogue import add_captures, add_clips

DAY = "2026-11-02"


def policy_of(store: Store, **review: object) -> LabelingPolicy:
    policy = load_labeling_policy(store.settings.policy_dir)
    rules = policy.review.model_copy(update={"second_pass_share": 0.0, "hidden_preview_share": 0.0, **review})
    return policy.model_copy(update={"review": rules})


def opened(store: Store, policy: LabelingPolicy, count: int = 1) -> dict[str, str]:
    truth = add_clips(store, count, DAY)
    triage_day(store, policy, DAY, [])
    open_tasks(store, policy)
    return truth


def offer(store: Store, policy: LabelingPolicy, reviewer: str) -> OfferedTask:
    task = next_task(store, policy, reviewer)
    assert task is not None
    return task


def answer(store: Store, task_id: str, reviewer: str, transcript: str, **values: object) -> Review:
    fields = {"task_id": task_id, "reviewer": reviewer, "transcript": transcript, "submitted_at": store.now()}
    return Review.model_validate({**fields, **values})


def label(store: Store) -> dict[str, object] | None:
    row = store.database.row(select(labels))
    return dict(row) if row else None


def test_one_good_answer_becomes_a_normalised_label(store: Store) -> None:
    policy = policy_of(store)
    opened(store, policy)
    task = offer(store, policy, "ada")
    submit_review(store, policy, answer(store, task.task_id, "ada", "  Stop, at 42! "))
    assert resolve(store, policy).methods == {"single": 1}
    found = label(store)
    assert found is not None
    assert (found["text"], found["raw_text"], found["reviewers"]) == ("stop at forty two", "  Stop, at 42! ", ["ada"])


def test_the_same_answer_twice_counts_once_and_another_is_refused(store: Store) -> None:
    policy = policy_of(store)
    opened(store, policy)
    task = offer(store, policy, "ada")
    first = answer(store, task.task_id, "ada", "stop")
    assert not submit_review(store, policy, first).repeated
    assert submit_review(store, policy, first).repeated
    with pytest.raises(TaskAnsweredError, match=task.task_id):
        submit_review(store, policy, answer(store, task.task_id, "ben", "start"))
    assert len(store.database.rows(select(reviews))) == 1


def test_a_second_pass_is_blind_and_by_someone_else(store: Store) -> None:
    policy = policy_of(store, second_pass_share=1.0)
    opened(store, policy)
    task = offer(store, policy, "ada")
    accepted = submit_review(store, policy, answer(store, task.task_id, "ada", "stop"))
    assert accepted.next_pass is ReviewPass.SECOND
    assert next_task(store, policy, "ada") is None
    second = offer(store, policy, "ben")
    assert (second.review_pass, second.preview, second.candidates) == (ReviewPass.SECOND, None, ())
    with pytest.raises(NotBlindError, match="ada"):
        submit_review(store, policy, answer(store, second.task_id, "ada", "stop"))
    assert resolve(store, policy).labelled == 0
    submit_review(store, policy, answer(store, second.task_id, "ben", "Stop."))
    assert resolve(store, policy).methods == {"agreed": 1}


def test_where_two_differ_a_third_decides(store: Store) -> None:
    policy = policy_of(store, second_pass_share=1.0)
    opened(store, policy)
    submit_review(store, policy, answer(store, offer(store, policy, "ada").task_id, "ada", "stop"))
    submit_review(store, policy, answer(store, offer(store, policy, "ben").task_id, "ben", "shop"))
    assert next_task(store, policy, "ben") is None
    third = offer(store, policy, "chi")
    assert (third.review_pass, third.candidates) == (ReviewPass.ADJUDICATION, ("shop", "stop"))
    submit_review(store, policy, answer(store, third.task_id, "chi", "stop"))
    summary = resolve(store, policy)
    assert (summary.methods, summary.agreement) == ({"adjudicated": 1}, 0.0)
    found = label(store)
    assert found is not None
    assert (found["text"], found["reviewers"]) == ("stop", ["ada", "ben", "chi"])


def test_what_two_people_cannot_make_out_gets_no_label(store: Store) -> None:
    policy = policy_of(store)
    opened(store, policy)
    for reviewer in ("ada", "ben"):
        task = offer(store, policy, reviewer)
        submit_review(store, policy, answer(store, task.task_id, reviewer, "", unintelligible=True))
    summary = resolve(store, policy)
    assert (summary.labelled, summary.unintelligible) == (0, 1)
    assert label(store) is None


@pytest.mark.parametrize(
    ("capture", "said"), [({"confidence": 0.1}, "one two stop"), ({"confidence": 0.9}, "seven eight nine north")]
)
def test_a_clip_the_device_was_unsure_of_or_far_off_gets_a_second_pass(
    store: Store, capture: dict[str, float], said: str
) -> None:
    policy = policy_of(store)
    add_captures(store, 1, DAY, **capture)
    triage_day(store, policy, DAY, [])
    open_tasks(store, policy)
    task = offer(store, policy, "ada")
    assert task.preview == "one two stop"
    assert submit_review(store, policy, answer(store, task.task_id, "ada", said)).next_pass is ReviewPass.SECOND


def test_misheard_spans_are_found_where_the_reviewer_marked_none(store: Store) -> None:
    policy = policy_of(store)
    add_captures(store, 1, DAY, confidence=0.9)
    triage_day(store, policy, DAY, [])
    open_tasks(store, policy)
    submit_review(store, policy, answer(store, offer(store, policy, "ada").task_id, "ada", "one nine stop"))
    row = store.database.row(select(reviews))
    assert row is not None
    assert [(span["heard"], span["said"]) for span in row["spans"]] == [("two", "nine")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"transcript": " ?! "},
        {"transcript": "stop", "unintelligible": True},
        {"transcript": "stop", "reviewer": " "},
        {"transcript": "stop", "spans": (MisheardSpan(start_s=1, end_s=99, heard="", said=""),)},
        {"transcript": "stop", "spans": (MisheardSpan(start_s=2, end_s=1, heard="", said=""),)},
    ],
)
def test_an_answer_that_contradicts_itself_is_refused_and_leaves_the_task_open(
    store: Store, wrong: dict[str, object]
) -> None:
    policy = policy_of(store)
    opened(store, policy)
    task = offer(store, policy, "ada")
    with pytest.raises(InvalidReviewError, match=task.task_id):
        submit_review(store, policy, answer(store, task.task_id, "ada", "x").model_copy(update=wrong))
    assert offer(store, policy, "ada").task_id == task.task_id


def test_answers_to_unknown_or_withdrawn_tasks_are_refused(store: Store) -> None:
    policy = policy_of(store)
    opened(store, policy)
    task = offer(store, policy, "ada")
    with pytest.raises(UnknownTaskError, match="task-nowhere"):
        submit_review(store, policy, answer(store, "task-nowhere", "ada", "stop"))
    with store.database.write() as connection:
        connection.execute(update(consents).values(revoked_at="2026-11-02"))
    assert next_task(store, policy, "ada") is None
    with pytest.raises(TaskWithdrawnError, match=task.task_id):
        submit_review(store, policy, answer(store, task.task_id, "ada", "stop"))


def test_a_group_of_answers_is_taken_whole_or_not_at_all(store: Store) -> None:
    policy = policy_of(store)
    opened(store, policy)
    task = offer(store, policy, "ada")
    with pytest.raises(UnknownTaskError):
        submit_reviews(
            store, policy, [answer(store, task.task_id, "ada", "stop"), answer(store, "task-none", "ada", "stop")]
        )
    assert store.database.rows(select(reviews)) == []


def test_a_leased_task_is_shown_to_nobody_else_until_the_lease_lapses(store: Store, clock: ManualClock) -> None:
    policy = policy_of(store, lease_minutes=15)
    opened(store, policy)
    task = offer(store, policy, "ada")
    assert next_task(store, policy, "ben") is None
    assert offer(store, policy, "ada").task_id == task.task_id
    clock.advance(timedelta(minutes=16))
    assert offer(store, policy, "ben").task_id == task.task_id


def test_a_reviewer_who_fails_gold_items_is_checked_on_everything(store: Store) -> None:
    policy = policy_of(store, gold_share=1.0, gold_min_items=3, second_pass_share=1.0)
    truth = opened(store, policy, 10)
    SimulatedReviewers(truth, error_rate=0.0, names=("ada", "ben", "chi")).answer_open_tasks(store)
    _agree_all(store, policy, truth)
    add_clips(store, 10, "2026-11-03", seed=5)
    triage_day(store, policy, "2026-11-03", [])
    assert open_tasks(store, policy).gold == 10
    gold = store.database.rows(select(label_tasks.c.task_id).where(label_tasks.c.review_pass == "gold"))
    careless = [answer(store, row["task_id"], "zoe", "wrong words entirely") for row in gold]
    submit_reviews(store, policy, careless)
    with store.database.read() as connection:
        score = next(s for s in reviewer_scores(connection, policy) if s.reviewer == "zoe")
    assert score.items == 10
    assert score.wer > 0.5
    strict = policy_of(store, gold_min_items=3, second_pass_share=0.0)
    task = offer(store, strict, "zoe")
    assert submit_review(store, strict, answer(store, task.task_id, "zoe", "stop")).next_pass is ReviewPass.SECOND


def _agree_all(store: Store, policy: LabelingPolicy, truth: dict[str, str]) -> None:
    """Give every clip an agreed second pass, whatever the file's own share opened."""
    resolve(store, policy)
    with store.database.write() as connection:
        connection.execute(update(labels).values(method="agreed"))
    assert len(store.database.rows(select(labels))) == len(truth)


def test_gold_looks_like_any_other_clip(store: Store) -> None:
    policy = policy_of(store, gold_share=1.0)
    truth = opened(store, policy, 3)
    SimulatedReviewers(truth, error_rate=0.0).answer_open_tasks(store)
    _agree_all(store, policy, truth)
    add_clips(store, 3, "2026-11-03", seed=5)
    triage_day(store, policy, "2026-11-03", [])
    open_tasks(store, policy)
    shown = set()
    while (task := next_task(store, policy, "newcomer")) is not None:
        shown.add(task.review_pass)
        submit_review(store, policy, answer(store, task.task_id, "newcomer", "stop"))
    assert shown == {ReviewPass.FIRST}
