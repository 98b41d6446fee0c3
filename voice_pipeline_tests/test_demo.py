"""What the story does when a gate says no: it says so and asks for another model; anything else ends it."""

from __future__ import annotations

import io
from datetime import date

import pytest
from rich.console import Console
from sqlalchemy import insert

from voice_pipeline.conductor import RunFailedError
from voice_pipeline.demo import ATTEMPTS, StoryPlan, _Story
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import models
from voice_pipeline.story_progress import Progress
from voice_pipeline.training.decisions import requests


class Failing:
    """Stands in for a conductor whose first `times` rounds end in a failed run."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.rounds = 0

    def settle(self, _world: object) -> None:
        self.rounds += 1
        if self.left:
            self.left -= 1
            raise RunFailedError("run of release_job failed in release_candidate")


class Nobody:
    def answer_open_tasks(self, _store: Store) -> int:
        return 0


def story(store: Store, clock: ManualClock, conductor: Failing, state: str) -> tuple[_Story, io.StringIO]:
    said = io.StringIO()
    plan = StoryPlan(home=store.settings.root, today=date(2026, 11, 2))
    told = _Story(plan, store, clock, conductor, Progress(Console(file=said, width=200), store.settings))  # type: ignore[arg-type]
    told.reviewers = Nobody()
    row = {"model_version": "m-1", "spec_digest": "d", "spec": {}, "dataset_version": "ds-1", "state": "trained"}
    with store.database.write() as connection:
        connection.execute(insert(models).values(**row, cause={}, planned_at=store.now().isoformat()))
    payload = {"model_version": "m-1", "bundle_digest": "b", "policy_digest": "p", "evidence": {}}
    steps = [(None, "candidate", "registered"), ("candidate", state, "worse in noise")]
    for before, after, reason in steps:
        line = {**payload, "from": before, "to": after, "reason": reason}
        store.ledger.append("transition", "m-1-r1", line, actor="test")
    return told, said


def test_a_rejected_model_is_told_and_another_is_asked_for(store: Store, clock: ManualClock) -> None:
    conductor = Failing(times=1)
    told, said = story(store, clock, conductor, "rejected")
    told._settle()
    assert conductor.rounds == 2
    assert "m-1-r1 was rejected: worse in noise" in said.getvalue()
    assert [cause.reason for cause in requests(store)] == ["m-1-r1 was rejected by its gates"]


def test_models_are_not_asked_for_without_end(store: Store, clock: ManualClock) -> None:
    conductor = Failing(times=99)
    told, _said = story(store, clock, conductor, "rejected")
    with pytest.raises(RunFailedError):
        told._settle()
    assert conductor.rounds == ATTEMPTS
    assert len(requests(store)) == ATTEMPTS - 1


def test_any_other_failure_ends_the_story(store: Store, clock: ManualClock) -> None:
    conductor = Failing(times=1)
    told, _said = story(store, clock, conductor, "gated")
    with pytest.raises(RunFailedError):
        told._settle()
    assert requests(store) == ()
