"""Simulated reviewers answer everything they know, at their error rate, the same way each time, and fast."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import select

from voice_pipeline.fleet.reviewers import SimulatedReviewers
from voice_pipeline.labeling.labels import resolve
from voice_pipeline.labeling.tasks import open_tasks
from voice_pipeline.labeling.triage import triage_day
from voice_pipeline.schema.labeling_policy import load_labeling_policy
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import label_tasks, labels
from voice_pipeline_tests.labeling.catalogue import add_clips

DAY = "2026-11-02"


def asked(store: Store, count: int) -> dict[str, str]:
    truth = add_clips(store, count, DAY)
    policy = load_labeling_policy(store.settings.policy_dir)
    triage_day(store, policy, DAY, [])
    open_tasks(store, policy)
    return truth


def test_a_thousand_tasks_are_answered_within_five_seconds(store: Store) -> None:
    truth = asked(store, 1000)
    start = time.perf_counter()
    answered = SimulatedReviewers(truth, error_rate=0.02).answer_open_tasks(store)
    assert time.perf_counter() - start < 5
    assert answered >= 1000
    assert store.database.rows(select(label_tasks).where(label_tasks.c.state == "open")) == []


def test_the_error_rate_is_what_was_asked_for() -> None:
    truth = {f"clip-{i}": "one two three four" for i in range(4000)}
    reviewers = SimulatedReviewers(truth, error_rate=0.1, seed=3)
    wrong = sum(reviewers.transcribe(clip_id, "ada") != text for clip_id, text in truth.items())
    assert wrong / 4000 == pytest.approx(0.1, abs=0.02)


def test_second_passes_remove_some_of_the_errors_and_all_tasks_settle(store: Store) -> None:
    truth = asked(store, 300)
    SimulatedReviewers(truth, error_rate=0.3).answer_open_tasks(store)
    policy = load_labeling_policy(store.settings.policy_dir)
    summary = resolve(store, policy)
    assert summary.labelled == 300
    assert set(summary.methods) == {"single", "agreed", "adjudicated"}
    found = {row["clip_id"]: row for row in store.database.rows(select(labels))}
    wrong = {c for c, row in found.items() if row["text"] != truth[c]}
    assert 0.15 < len(wrong) / 300 < 0.4


def test_clips_they_do_not_know_are_left_to_others(store: Store) -> None:
    asked(store, 5)
    assert SimulatedReviewers({}).answer_open_tasks(store) == 0


def test_the_same_seed_writes_the_same(store: Store) -> None:
    truth = {f"clip-{i}": "one two three" for i in range(50)}
    first, second = SimulatedReviewers(truth, 0.5, seed=1), SimulatedReviewers(truth, 0.5, seed=1)
    assert [first.transcribe(c, "ada") for c in truth] == [second.transcribe(c, "ada") for c in truth]
    other = SimulatedReviewers(truth, 0.5, seed=2)
    assert [first.transcribe(c, "ada") for c in truth] != [other.transcribe(c, "ada") for c in truth]
