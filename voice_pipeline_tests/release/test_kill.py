"""`kill -9` of the controller before every write of every transition: afterwards the ledger verifies and is as it was
before or after that step, and who does the step again finishes it, and tells people once.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from voice_pipeline.release.candidate import register_candidate
from voice_pipeline.release.controller import advance, tick
from voice_pipeline.release.errors import DecisionRefusedError
from voice_pipeline.release.people.decisions import record_decision
from voice_pipeline.release.people.enrolment import person_key
from voice_pipeline.release.policy import release_policy
from voice_pipeline.schema.monitoring import IncidentKind
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.settings import Settings
from voice_pipeline.store.alerts import deliver_pending
from voice_pipeline.store.checkpoint import CHECKPOINT
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.incidents import incidents
from voice_pipeline.store.releases import TRANSITION, latest_release, live, release_views
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import alerts, decisions
from voice_pipeline.store.tables import incidents as incident_table
from voice_pipeline_tests.killing import COMMITS, STATEMENTS, interruptions
from voice_pipeline_tests.release.conftest import START
from voice_pipeline_tests.release.world import Behaviour, World, add_suite, open_world

EASY = {
    "gates": {"bootstrap_samples": 200},
    "guardrails": dict.fromkeys(("slow", "crash", "abandonment", "fallback", "failure"), 0.5)
    | {"correction_rate": 0.05},
    "stages": [
        {"state": stage, "min_minutes": 30, "min_devices": 2, "min_events": 4, "noninferiority_margin": 0.5}
        for stage in ("shadow", "canary_5", "canary_25", "canary_50")
    ],
}
"""A policy that a handful of devices satisfies in one look: what is proved here is not the statistics."""
HARM = Behaviour(correction=0.95, latency_ms=400, crash=0.9)
Act = Callable[[Store], object]
Story = tuple[tuple[str, str | None, str], ...]


@dataclass(frozen=True)
class Moment:
    """A home as it was right before a step, at that time."""

    home: Path
    at: datetime

    def opened(self, home: Path) -> Store:
        settings = Settings(home=home, policy_dir=home / "policy")
        return Store.open(settings, ManualClock(self.at))


@dataclass
class Album:
    """Moments of one story, by name. Models: `first` live, `second` rolling out, `bad` fails a gate."""

    folder: Path
    world: World
    moments: dict[str, Moment]
    models: dict[str, str]

    def take(self, name: str) -> None:
        """Copy the home as it is."""
        self.world.store.database.engine.dispose()
        source, home = self.world.store.settings.root, self.folder / name
        shutil.copytree(source, home)
        self.moments[name] = Moment(home, self.world.clock.now())

    def harmed(self, name: str) -> None:
        """The same moment on another path: right now devices begin to suffer from the second model."""
        world, home = self.world, self.folder / f"{name}-suffering"
        here = world.store
        here.database.engine.dispose()
        shutil.copytree(here.settings.root, home)
        moment = Moment(home, world.clock.now())
        aside = World(moment.opened(home), ManualClock(moment.at), world.suite, world.devices, world.dictations)
        aside.behaviour[self.models["second"]] = aside.shadow[self.models["second"]] = HARM
        for _ in range(5):
            aside.report(minutes=10)
        aside.store.database.engine.dispose()
        self.moments[f"{name} suffering"] = Moment(home, aside.clock.now())


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    """One story from the first candidate to the second model live, a moment before each step."""
    folder = tmp_path_factory.mktemp("album")
    clock = ManualClock(START)
    store = open_world(folder / "home", clock, EASY)
    world = World(store, clock, add_suite(store), devices=150, dictations=2)
    album = Album(folder, world, {}, {})
    album.models["first"] = world.model(0.2, network_bytes=1000)
    album.take("first published")
    view = world.register(album.models["first"])
    record_decision(store, view.release_id, Decision.APPROVE, world.person(), "first model")
    album.take("first approved")
    world.settle()
    world.report()
    album.models["second"] = world.model(0.1, network_bytes=1000)
    album.models["bad"] = world.model(0.9, network_bytes=1000)
    album.take("second published")
    world.register(album.models["second"])
    album.take("second gated")
    world.settle()
    for _ in range(16):
        state = world.view(album.models["second"]).state
        if state is S.PRODUCTION:
            break
        if f"{state} suffering" not in album.moments:
            album.harmed(state.value)
        world.report()
        if state.value not in album.moments:
            album.take(state.value)
        if tick(store, world.policy).due and f"{state} due" not in album.moments:
            album.take(f"{state} due")
        world.settle()
    assert world.view(album.models["second"]).state is S.PRODUCTION
    album.take("production")
    return album


def story(store: Store) -> Story:
    lines = store.ledger.lines(kind=TRANSITION)
    return tuple((line.subject, line.payload["from"], line.payload["to"]) for line in lines)


def finished(store: Store, act: Act) -> tuple[Story, int, int]:
    """The step once more, the next tick, and the next look of `alert_sensor`: (transitions, incidents, alerts)."""
    with contextlib.suppress(DecisionRefusedError):  # a decision that was acted upon before the kill fits no more
        act(store)
    tick(store, release_policy(store))
    deliver_pending(store)
    assert store.ledger.verify()
    told = store.database.rows(alerts.select())
    log = store.settings.reports / "alerts.log"
    lines = log.read_text().splitlines() if log.exists() else []
    assert len(lines) == len(set(lines)) == len(told)
    assert all(row["delivered"] for row in told)
    return story(store), len(incidents(store, IncidentKind.RELEASE_HARM)), len(told)


def rows_of_people(store: Store) -> list[str]:
    """What was told, or is to be."""
    tables = (alerts, incident_table, decisions)
    return [str([tuple(row.values()) for row in store.database.rows(table.select())]) for table in tables]


def survives(moment: Moment, tmp_path: Path, act: Act, at: str = COMMITS) -> tuple[Story, int]:
    """Kill `act` before each of its writes and look; returns the transitions that it makes, and how many kills. What
    two kills left alike is finished once.
    """
    home = tmp_path / "killed"

    def prepare() -> Callable[[], object]:
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(moment.home, home)
        return lambda: act(moment.opened(home))

    prepare()
    store = moment.opened(home)
    before, had_live = story(store), live(store) is not None
    after = finished(store, act)
    stays_live = had_live and live(store) is not None
    store.database.engine.dispose()
    kills, left = 0, set()
    for kills in interruptions(prepare, at):
        store = moment.opened(home)
        note = (home / CHECKPOINT).read_bytes() if (home / CHECKPOINT).exists() else b""
        store.ledger.verify()
        now = story(store)
        assert now == after[0][: len(now)], f"killed before write {kills}"
        assert len(now) >= len(before)
        states = [view.state for view in release_views(store)]
        assert states.count(S.PRODUCTION) <= 1
        assert (live(store) is not None) >= stays_live, f"killed before write {kills}: no model is live"
        log = home / "reports" / "alerts.log"
        remains = (note, log.read_bytes() if log.exists() else b"", *rows_of_people(store), len(store.ledger.lines()))
        if remains not in left:
            left.add(remains)
            assert finished(store, act) == after, f"killed before write {kills}"
        store.database.engine.dispose()
    return after[0][len(before) :], kills


def model_steps(made: Story, model: str) -> list[tuple[str | None, str]]:
    return [(before, to) for release, before, to in made if release.startswith(model)]


def registering(model: str) -> Act:
    return lambda store: register_candidate(store, release_policy(store), model)


def advancing(model: str, to_state: S) -> Act:
    return lambda store: advance(store, release_policy(store), model, to_state)


def ticking(store: Store) -> object:
    return tick(store, release_policy(store))


def deciding(model: str, decision: Decision) -> Act:
    def act(store: Store) -> object:
        view = latest_release(store, model)
        assert view is not None
        return record_decision(store, view.release_id, decision, person_key(store, "demo"), "because")

    return act


@pytest.mark.parametrize(
    ("moment", "model", "steps"),
    [
        ("first published", "first", [(None, "candidate"), ("candidate", "awaiting_sign_off")]),
        ("second published", "second", [(None, "candidate"), ("candidate", "gated")]),
        ("second published", "bad", [(None, "candidate"), ("candidate", "rejected")]),
    ],
)
def test_while_a_candidate_is_judged(
    album: Album, tmp_path: Path, moment: str, model: str, steps: list[tuple[str | None, str]]
) -> None:
    made, kills = survives(album.moments[moment], tmp_path, registering(album.models[model]))
    assert model_steps(made, album.models[model]) == steps
    assert kills >= 6


@pytest.mark.parametrize(
    ("moment", "model", "from_state", "to_state"),
    [
        ("first approved", "first", "awaiting_sign_off", S.PRODUCTION),
        ("second gated", "second", "gated", S.SHADOW),
        ("shadow due", "second", "shadow", S.CANARY_5),
        ("canary_5 due", "second", "canary_5", S.CANARY_25),
        ("canary_25 due", "second", "canary_25", S.CANARY_50),
        ("canary_50 due", "second", "canary_50", S.PRODUCTION),
    ],
)
def test_while_a_release_advances(
    album: Album, tmp_path: Path, moment: str, model: str, from_state: str, to_state: S
) -> None:
    made, kills = survives(album.moments[moment], tmp_path, advancing(album.models[model], to_state))
    assert model_steps(made, album.models[model]) == [(from_state, to_state.value)]
    if from_state == "canary_50":
        assert model_steps(made, album.models["first"]) == [("production", "superseded")]
    assert kills >= 3


def test_while_the_live_model_changes_at_every_single_statement(album: Album, tmp_path: Path) -> None:
    act = advancing(album.models["second"], S.PRODUCTION)
    made, kills = survives(album.moments["canary_50 due"], tmp_path, act, STATEMENTS)
    assert [to for _, _, to in made] == ["superseded", "production"]
    assert kills >= 5


@pytest.mark.parametrize("stage", ["shadow", "canary_5", "canary_25", "canary_50"])
def test_while_harm_is_undone(album: Album, tmp_path: Path, stage: str) -> None:
    """In shadow a look shows it: look and rollback are one, or the harm would wait for the next look."""
    made, kills = survives(album.moments[f"{stage} suffering"], tmp_path, ticking)
    assert model_steps(made, album.models["second"]) == [(stage, "rolled_back")]
    assert kills >= 7


def test_while_a_look_is_made(album: Album, tmp_path: Path) -> None:
    made, kills = survives(album.moments["shadow"], tmp_path, ticking)
    assert made == ()
    assert kills >= 3


def test_while_the_controller_holds_a_rollout_whose_bundle_changed(album: Album, tmp_path: Path) -> None:
    def tick_on_a_changed_bundle(store: Store) -> object:
        with store.database.write() as connection:  # a copy of the bundle that is not what was judged
            folder = store.settings.bundles / album.models["second"]
            connection.exec_driver_sql("UPDATE bundles SET uri = ? WHERE uri LIKE ?", (str(folder), f"%{folder.name}"))
        (folder / "model.onnx").write_bytes(b"changed")
        return ticking(store)

    made, kills = survives(album.moments["canary_25 due"], tmp_path, tick_on_a_changed_bundle)
    assert model_steps(made, album.models["second"]) == [("canary_25", "held")]
    assert kills >= 3


@pytest.mark.parametrize(
    ("moment", "decision", "steps"),
    [
        ("second gated", Decision.REJECT, [("second", "gated", "rejected")]),
        ("shadow", Decision.HOLD, [("second", "shadow", "held")]),
        ("canary_50 due", Decision.HOLD, [("second", "canary_50", "held")]),
        (
            "production",
            Decision.ROLLBACK,
            [("second", "production", "rolled_back"), ("first", "superseded", "production")],
        ),
    ],
)
def test_while_a_person_decides(
    album: Album, tmp_path: Path, moment: str, decision: Decision, steps: list[tuple[str, str, str]]
) -> None:
    made, kills = survives(album.moments[moment], tmp_path, deciding(album.models["second"], decision))
    assert list(made) == [(f"{album.models[name]}-r1", before, to) for name, before, to in steps]
    assert kills >= 3


def test_while_the_live_model_is_undone_with_another_one_rolling_out(album: Album, tmp_path: Path) -> None:
    made, _ = survives(album.moments["canary_25"], tmp_path, deciding(album.models["first"], Decision.ROLLBACK))
    assert [(before, to) for _, before, to in made] == [("production", "rolled_back"), ("canary_25", "rolled_back")]


def test_while_a_held_release_resumes(album: Album, tmp_path: Path) -> None:
    held = tmp_path / "held"
    shutil.copytree(album.moments["canary_25"].home, held)
    moment = Moment(held, album.moments["canary_25"].at)
    store = moment.opened(held)
    for decision in (Decision.HOLD, Decision.RESUME):
        deciding(album.models["second"], decision)(store)
    store.database.engine.dispose()
    made, kills = survives(moment, tmp_path, ticking)
    assert model_steps(made, album.models["second"]) == [("held", "canary_25")]
    assert kills >= 3
