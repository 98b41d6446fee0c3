"""What the story does when a gate says no, or a device does not come back: it says so. Anything else ends it."""

from __future__ import annotations

import io
from datetime import date
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import insert

from voice_pipeline import demo
from voice_pipeline.conductor import RunFailedError
from voice_pipeline.demo import ATTEMPTS, StoryError, StoryPlan, _Story
from voice_pipeline.demo_home import HomeInUseError, served_home
from voice_pipeline.schema.policy_file import load_policy
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.schema.retrain_policy import RetrainPolicy
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import models
from voice_pipeline.story_progress import Progress
from voice_pipeline.training.decisions import requests
from voice_pipeline_tests.transitions import take


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
    take(store, "m-1-r1", "m-1", "b", ReleaseState.CANDIDATE, reason="registered")
    take(store, "m-1-r1", "m-1", "b", ReleaseState(state), reason="worse in noise")
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


class Field:
    """Stands in for a fleet whose full clients answer with these models."""

    def __init__(self, *models: str) -> None:
        self.models = models

    def answering(self) -> dict[str, str]:
        return {f"device-{number}": model for number, model in enumerate(self.models)}


@pytest.mark.parametrize("models", [("m-1", "m-2"), ()])
def test_a_device_that_keeps_a_rolled_back_model_ends_the_story(
    store: Store, clock: ManualClock, models: tuple[str, ...]
) -> None:
    told, _said = story(store, clock, Failing(times=0), "gated")
    told.model_versions = ["m-0", "m-1", "m-2"]
    with pytest.raises(StoryError, match="after the rollback devices should answer with m-1"):
        told.expect_devices_back(Field(*models))


def test_devices_that_are_back_are_told(store: Store, clock: ManualClock) -> None:
    told, said = story(store, clock, Failing(times=0), "gated")
    told.model_versions = ["m-0", "m-1", "m-2"]
    told.expect_devices_back(Field("m-1", "m-1"))
    assert "2 devices answer with v2" in said.getvalue()


def test_the_story_is_told_in_a_home_that_nobody_else_takes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"

    def told(*_: object) -> dict[str, object]:
        with pytest.raises(HomeInUseError, match="voice-pipeline demo"), served_home(home, "voice-pipeline dev"):
            pass
        return {"told": True}

    monkeypatch.setattr(demo, "_speech", lambda _plan: ([], [], None))
    monkeypatch.setattr(demo, "_told", told)
    plan = StoryPlan(home=home, today=date(2026, 11, 2))
    assert demo.run_demo(plan, Console(file=io.StringIO())) == {"told": True}


def test_the_help_says_how_the_quick_story_differs() -> None:
    from typer.main import get_command

    from voice_pipeline.cli import app

    (quick,) = [option for option in get_command(app).commands["demo"].params if option.name == "quick"]
    profiles = load_policy(PROJECT_ROOT / "policy" / "retrain.yaml", RetrainPolicy).profiles
    fewer, more = (
        {profiles[name].scratch.max_epochs, profiles[name].warm_start.max_epochs} for name in ("quick", "story")
    )
    told = [int(word) for word in quick.help.split() if word.isdigit()]
    assert told == [*sorted(fewer), *sorted(more)]
