"""A batch closes once, when it should, with a cause, and holds only what may be used."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from sqlalchemy import select, update

from voice_pipeline.fleet.reviewers import SimulatedReviewers
from voice_pipeline.labeling.batches import close_batch, readiness
from voice_pipeline.labeling.labels import resolve
from voice_pipeline.labeling.tasks import open_tasks
from voice_pipeline.labeling.triage import triage_day
from voice_pipeline.schema.labeling_policy import LabelingPolicy, load_labeling_policy
from voice_pipeline.schema.monitoring import Action, IncidentKind
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.incidents import open_incident, open_incidents
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import batches, clips, consents, label_tasks, labels
from voice_pipeline_tests.labeling.catalogue import add_captures, add_clips

DAY, LATER = "2026-11-02", "2026-11-03"


def asked(store: Store, day: str) -> LabelingPolicy:
    policy = load_labeling_policy(store.settings.policy_dir)
    triage_day(store, policy, day, open_incidents(store))
    open_tasks(store, policy)
    return policy


def batch_rows(store: Store) -> list[dict[str, object]]:
    return [dict(row) for row in store.database.rows(select(batches).order_by(batches.c.batch_id))]


def test_the_first_import_is_labelled_and_closed_into_one_batch(store: Store) -> None:
    truth = add_clips(store, 300, "2026-11-01") | add_clips(store, 300, DAY)
    asked(store, "2026-11-01")
    policy = asked(store, DAY)
    assert not readiness(store, policy).ready
    answered = SimulatedReviewers(truth, error_rate=0.05).answer_open_tasks(store)
    assert answered > 600
    waiting = readiness(store, policy)
    assert (waiting.ready, waiting.waiting, waiting.cause) == (True, 600, "reviews")
    assert resolve(store, policy).labelled == 600
    assert close_batch(store, policy) == "batch-20261102-001"
    assert not readiness(store, policy).ready
    assert close_batch(store, policy) is None
    (batch,) = batch_rows(store)
    assert (batch["clips"], batch["cause"]) == (600, "reviews")


def test_captures_that_an_incident_asked_for_close_into_a_batch_of_that_cause(store: Store) -> None:
    truth = add_captures(store, 200, DAY)
    policy = asked(store, DAY)
    reviewers = SimulatedReviewers(truth, error_rate=0.0)
    reviewers.answer_open_tasks(store)
    resolve(store, policy)
    first = close_batch(store, policy)
    incident = open_incident(store, IncidentKind.CONCEPT_DRIFT, {"day": DAY}, "m-1", Action.LABEL, "drift", {})
    asked(store, DAY)
    reviewers.answer_open_tasks(store)
    assert readiness(store, policy).cause == f"incident:{incident.incident_id}"
    resolve(store, policy)
    second = close_batch(store, policy)
    assert (first, second) == ("batch-20261102-001", "batch-20261102-002")
    ordinary, drifted = batch_rows(store)
    assert drifted["cause"] == f"incident:{incident.incident_id}"
    assert (ordinary["clips"] + drifted["clips"]) == 200  # type: ignore[operator]
    assert len(store.database.rows(select(labels).where(labels.c.batch_id.is_(None)))) == 0


def test_an_open_task_holds_the_batch_back_until_it_is_overdue(store: Store, clock: ManualClock) -> None:
    truth = add_clips(store, 40, DAY)
    policy = asked(store, DAY)
    left = next(iter(truth))
    SimulatedReviewers({c: t for c, t in truth.items() if c != left}).answer_open_tasks(store)
    assert (readiness(store, policy).ready, readiness(store, policy).open_tasks) == (False, 1)
    clock.advance(timedelta(hours=policy.review.deadline_hours + 1))
    assert readiness(store, policy).ready


def test_too_few_labels_wait_for_more(store: Store) -> None:
    truth = add_clips(store, 24, DAY)
    policy = asked(store, DAY)
    SimulatedReviewers(truth).answer_open_tasks(store)
    resolve(store, policy)
    assert not readiness(store, policy).ready
    assert close_batch(store, policy) is None
    assert batch_rows(store) == []


def test_labels_of_erased_revoked_or_review_only_clips_enter_no_batch(store: Store) -> None:
    truth = add_clips(store, 30, DAY, subject="s1")
    gone = add_clips(store, 5, DAY, subject="s2")
    revoked = add_clips(store, 5, DAY, subject="s3")
    only_review = add_clips(store, 5, DAY, subject="s4", scopes=("transcribe_review",))
    policy = asked(store, DAY)
    SimulatedReviewers(truth | gone | revoked | only_review).answer_open_tasks(store)
    resolve(store, policy)
    with store.database.write() as connection:
        connection.execute(update(clips).where(clips.c.subject_token == "s2").values(erased_at="2026-11-02"))
        connection.execute(update(consents).where(consents.c.subject_token == "s3").values(revoked_at="2026-11-02"))
    name = close_batch(store, policy)
    inside = {row["clip_id"] for row in store.database.rows(select(labels).where(labels.c.batch_id == name))}
    assert inside == set(truth)


def test_readiness_names_the_same_set_the_same_way_and_a_new_set_differently(store: Store) -> None:
    truth = add_clips(store, 30, DAY)
    policy = asked(store, DAY)
    SimulatedReviewers(truth).answer_open_tasks(store)
    first = readiness(store, policy)
    resolve(store, policy)
    assert readiness(store, policy) == first
    more = add_clips(store, 30, LATER, seed=3)
    asked(store, LATER)
    SimulatedReviewers(more).answer_open_tasks(store)
    assert readiness(store, policy).digest != first.digest


def test_a_clip_whose_tasks_were_withdrawn_gets_no_label(store: Store) -> None:
    truth = add_clips(store, 30, DAY)
    policy = asked(store, DAY)
    SimulatedReviewers(truth).answer_open_tasks(store)
    with store.database.write() as connection:
        connection.execute(update(consents).values(revoked_at="2026-11-02"))
    assert resolve(store, policy).labelled == 0
    assert store.database.rows(select(label_tasks).where(label_tasks.c.state == "open")) == []


def test_two_closers_at_once_make_one_batch(store: Store) -> None:
    truth = add_clips(store, 60, DAY)
    policy = asked(store, DAY)
    SimulatedReviewers(truth).answer_open_tasks(store)

    def resolve_and_close(_: int) -> str | None:
        resolve(store, policy)
        return close_batch(store, policy)

    with ThreadPoolExecutor(4) as pool:
        closed = list(pool.map(resolve_and_close, range(4)))
    assert sorted(name for name in closed if name) == ["batch-20261102-001"]
    assert [batch["clips"] for batch in batch_rows(store)] == [60]
