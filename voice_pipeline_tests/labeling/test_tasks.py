"""Tasks open once, only with consent, hide some previews, and mix in gold."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select, update

from voice_pipeline.fleet.reviewers import SimulatedReviewers
from voice_pipeline.labeling.labels import resolve
from voice_pipeline.labeling.tasks import open_tasks
from voice_pipeline.labeling.triage import triage_day
from voice_pipeline.schema.labeling_policy import LabelingPolicy, load_labeling_policy
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clips, consents, label_tasks
from voice_pipeline_tests.labeling.catalogue import add_captures, add_clips

DAY = "2026-11-02"


def policy_of(store: Store, **review: object) -> LabelingPolicy:
    policy = load_labeling_policy(store.settings.policy_dir)
    return policy.model_copy(update={"review": policy.review.model_copy(update=review)})


def tasks(store: Store) -> list[dict[str, object]]:
    return [dict(row) for row in store.database.rows(select(label_tasks))]


def test_every_selected_clip_gets_one_first_pass_however_often_tasks_are_opened(store: Store) -> None:
    truth = add_clips(store, 20, DAY)
    policy = policy_of(store)
    triage_day(store, policy, DAY, [])
    assert open_tasks(store, policy).opened == 20
    assert open_tasks(store, policy).opened == 0
    assert {task["clip_id"] for task in tasks(store)} == set(truth)


def test_a_share_of_previews_is_hidden(store: Store) -> None:
    add_captures(store, 400, DAY)
    policy = policy_of(store, hidden_preview_share=0.25)
    policy = policy.model_copy(update={"budget": policy.budget.model_copy(update={"captures_per_day": 400})})
    triage_day(store, policy, DAY, [])
    open_tasks(store, policy)
    hidden = [task for task in tasks(store) if task["preview"] is None]
    assert 60 <= len(hidden) <= 140


def test_erasure_and_revocation_withdraw_open_tasks_and_their_texts(store: Store) -> None:
    erased = next(iter(add_captures(store, 1, DAY, subject="s1")))
    revoked = next(iter(add_captures(store, 1, DAY, subject="s2")))
    kept = next(iter(add_captures(store, 1, DAY, subject="s3")))
    policy = policy_of(store, hidden_preview_share=0.0)
    triage_day(store, policy, DAY, [])
    open_tasks(store, policy)
    with store.database.write() as connection:
        connection.execute(update(clips).where(clips.c.clip_id == erased).values(erased_at="2026-11-02"))
        connection.execute(update(consents).where(consents.c.subject_token == "s2").values(revoked_at="2026-11-02"))
    assert open_tasks(store, policy).withdrawn == 2
    found = {task["clip_id"]: (task["state"], task["preview"]) for task in tasks(store)}
    assert found[erased] == found[revoked] == ("withdrawn", None)
    assert found[kept] == ("open", "one two stop")


def test_an_overdue_task_is_escalated(store: Store, clock: ManualClock) -> None:
    add_clips(store, 2, DAY)
    policy = policy_of(store, deadline_hours=24)
    triage_day(store, policy, DAY, [])
    open_tasks(store, policy)
    clock.advance(timedelta(hours=25))
    assert open_tasks(store, policy).escalated == 2
    assert {task["state"] for task in tasks(store)} == {"escalated"}


def test_gold_items_are_settled_clips_with_their_known_answer(store: Store) -> None:
    truth = add_clips(store, 30, DAY)
    policy = policy_of(store, gold_share=0.5)
    triage_day(store, policy, DAY, [])
    assert open_tasks(store, policy).gold == 0
    SimulatedReviewers(truth, error_rate=0.0).answer_open_tasks(store)
    resolve(store, policy)
    add_clips(store, 30, "2026-11-03", seed=9)
    triage_day(store, policy, "2026-11-03", [])
    summary = open_tasks(store, policy)
    gold = [task for task in tasks(store) if task["review_pass"] == "gold"]
    assert summary.gold == len(gold) > 0
    assert all(truth[str(task["clip_id"])] == task["gold_text"] for task in gold)
