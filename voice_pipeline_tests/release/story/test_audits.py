"""Every ledger line about a release is told in the Dagster UI, once, wherever sensor, run and daemon are killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from dagster import DagsterInstance
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.release import sensors
from voice_pipeline.release.assets import canary_release
from voice_pipeline.release.controller import advance, tick
from voice_pipeline.release.sensors import rollout_sensor
from voice_pipeline.release.story.audits import AT_A_TIME, OWN_REPORT, choose, named, untold
from voice_pipeline.release.story.presentation import LEDGER_LINE
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.ledger import LedgerLine
from voice_pipeline.store.store import Store
from voice_pipeline_tests.release.daemon import RELEASE_ASSETS, Daemon, metadata_of
from voice_pipeline_tests.release.story.test_charts import START, histories, whole_story
from voice_pipeline_tests.release.test_shell import evaluate, run
from voice_pipeline_tests.release.world import Behaviour, World, record_decision

MUCH_LATER = OWN_REPORT + timedelta(days=365)


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def daemon(small: World, instance: DagsterInstance) -> Daemon:
    """A model is live."""
    made = Daemon(small, instance)
    first = made.model(0.2)
    made.decide(first, Decision.APPROVE, "first model")
    small.report()
    return made


def lines_to_tell(world: World, model: str) -> list[str]:
    """Every look and every step of a model's releases but registrations, which their judgement tells."""
    about = {"transition", "analysis"}
    lines = [line for line in world.store.ledger.lines(subject=world.view(model).release_id) if line.kind in about]
    return sorted(named(line) for line in lines if line.payload.get("to") != "candidate")


def harmful(daemon: Daemon) -> str:
    """A canary that harms; its telemetry is in, nobody has looked."""
    model = daemon.model(0.1)
    daemon.until(model, S.CANARY_25)
    daemon.world.behaviour[model] = Behaviour(correction=0.95, crash=0.9)
    daemon.world.report(minutes=5)
    return model


def test_a_whole_rollout_is_told_line_by_line_and_once(daemon: Daemon) -> None:
    model = daemon.model(0.1)
    daemon.until(model, S.CANARY_5)
    daemon.decide(model, Decision.HOLD, "wait")
    daemon.decide(model, Decision.RESUME, "go on")
    daemon.until(model, S.PRODUCTION)
    daemon.settle()
    assert sorted(daemon.told_lines(model)) == lines_to_tell(daemon.world, model)
    told = [metadata_of(record) for record in daemon.told("canary_release", model)]
    exposure = [int(str(event["exposure_percent"])) for event in told]
    assert exposure == sorted(exposure)
    assert {5, 25, 50} == set(exposure)


def test_looks_are_observed_and_steps_are_materialised(daemon: Daemon) -> None:
    model = daemon.model(0.1)
    daemon.until(model, S.CANARY_25)
    looks = {named(line) for line in daemon.world.store.ledger.lines(kind="analysis")}
    for asset in RELEASE_ASSETS:
        for record in daemon.told(asset, model):
            observed = record.event_log_entry.asset_observation is not None
            assert observed == (metadata_of(record)[LEDGER_LINE] in looks)


def test_the_model_that_was_replaced_is_told_so(daemon: Daemon) -> None:
    first = next(line.payload["model_version"] for line in daemon.world.store.ledger.lines(kind="transition"))
    daemon.until(daemon.model(0.1), S.PRODUCTION)
    daemon.settle()
    last = metadata_of(daemon.told("production_release", first)[-1])
    assert (last["state"], last["exposure_percent"]) == ("superseded", 0)


def test_a_sensor_killed_after_the_rollback_was_written_tells_it_when_it_is_back(daemon: Daemon) -> None:
    """The process dies by SIGKILL between the ledger's commit and the tick's answer; a new one takes over."""
    model = harmful(daemon)
    world = daemon.world
    world.store.database.engine.dispose()
    child = os.fork()
    if child == 0:
        vars(sensors)["untold"] = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        again = World(Store.open(world.store.settings, world.clock), world.clock, world.suite)
        evaluate(again, daemon.instance, rollout_sensor, daemon.cursors[rollout_sensor.name])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert world.view(model).state is S.ROLLED_BACK
    before = daemon.told_lines(model)
    daemon.tick()
    told = metadata_of(daemon.told("canary_release", model)[-1])
    assert (told["state"], told["exposure_percent"]) == ("rolled_back", 0)
    assert "data:image/png;base64," in str(told["chart"])
    assert sorted(daemon.told_lines(model)) == lines_to_tell(world, model)
    assert len(daemon.told_lines(model)) == len(before) + 1
    daemon.tick()
    assert len(daemon.told_lines(model)) == len(before) + 1


def test_a_daemon_killed_before_it_stored_the_events_gets_them_again(daemon: Daemon) -> None:
    model = harmful(daemon)
    cursor = daemon.cursors[rollout_sensor.name]
    lost = evaluate(daemon.world, daemon.instance, rollout_sensor, cursor)
    assert [event.metadata["state"].value for event in lost.asset_events][-1] == "rolled_back"
    again = evaluate(daemon.world, daemon.instance, rollout_sensor, cursor)
    assert again.asset_events == lost.asset_events
    daemon.tick()
    assert sorted(daemon.told_lines(model)) == lines_to_tell(daemon.world, model)


def test_a_daemon_killed_between_two_events_stores_only_what_is_missing(daemon: Daemon) -> None:
    """And one killed before the cursor was written: the same, with nothing missing."""
    model = daemon.model(0.1)
    daemon.until(model, S.CANARY_5)
    record_decision(daemon.world.store, daemon.world.view(model).release_id, Decision.HOLD, daemon.world.person(), "a")
    record_decision(
        daemon.world.store, daemon.world.view(model).release_id, Decision.RESUME, daemon.world.person(), "b"
    )
    cursor = daemon.cursors[rollout_sensor.name]
    events = evaluate(daemon.world, daemon.instance, rollout_sensor, cursor).asset_events
    assert len(events) == 2
    for number in (1, 2):
        daemon.instance.report_runless_asset_event(events[number - 1])
        rest = evaluate(daemon.world, daemon.instance, rollout_sensor, cursor).asset_events
        assert [e.metadata[LEDGER_LINE] for e in rest] == [e.metadata[LEDGER_LINE] for e in events[number:]]


def test_a_lost_cursor_tells_nothing_twice(daemon: Daemon) -> None:
    model = daemon.model(0.1)
    daemon.until(model, S.CANARY_25)
    daemon.cursors.clear()
    before = daemon.told_lines(model)
    daemon.tick()
    assert daemon.told_lines(model) == before


def test_a_run_killed_after_its_step_was_written_is_made_good_by_the_sensor(daemon: Daemon) -> None:
    """Not at once: a run that lives tells its own step, and is given the time."""
    model = daemon.model(0.1)
    daemon.until(model, S.SHADOW)
    daemon.world.report()
    due = tick(daemon.world.store, daemon.world.policy).due
    assert [step.to_state for step in due] == [S.CANARY_5]
    advance(daemon.world.store, daemon.world.policy, model, S.CANARY_5)  # what the run does before it dies
    daemon.tick()
    assert not daemon.told("canary_release", model)
    daemon.world.clock.advance(OWN_REPORT)
    daemon.tick()
    assert [metadata_of(record)["state"] for record in daemon.told("canary_release", model)] == ["canary_5"]


def test_a_run_that_tells_its_own_step_is_not_told_again(daemon: Daemon) -> None:
    model = daemon.model(0.1)
    daemon.until(model, S.SHADOW)
    daemon.world.report()
    tick(daemon.world.store, daemon.world.policy)
    assert run(daemon.world, daemon.instance, canary_release, model).success
    daemon.world.clock.advance(OWN_REPORT)
    daemon.tick()
    assert [metadata_of(record)["state"] for record in daemon.told("canary_release", model)] == ["canary_5"]


def test_a_rollback_is_told_at_once_after_a_step_whose_run_died(daemon: Daemon) -> None:
    """In the order of the ledger, so that the newest event on the asset is the newest state."""
    model = daemon.model(0.1)
    daemon.until(model, S.SHADOW)
    daemon.world.report()
    tick(daemon.world.store, daemon.world.policy)
    advance(daemon.world.store, daemon.world.policy, model, S.CANARY_5)
    record_decision(
        daemon.world.store, daemon.world.view(model).release_id, Decision.ROLLBACK, daemon.world.person(), "!"
    )
    daemon.tick()
    told = [metadata_of(record)["state"] for record in daemon.told("canary_release", model)]
    assert told == ["canary_5", "rolled_back"]


@given(histories(), st.integers(0, 40), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_killed_anywhere_every_line_is_told_once_and_in_order(
    lines: list[LedgerLine], killed_after: int, ticks_before: int
) -> None:
    """Pure: a tick stores some of its events and dies before its cursor; others follow until nothing is left."""
    log: list[tuple[str, str, str]] = []
    cursor: str | None = None
    now = max(datetime.fromisoformat(line.at) for line in lines) + MUCH_LATER

    def told_on(asset: str, model: str) -> frozenset[str]:
        return frozenset(name for where, whose, name in log if (where, whose) == (asset, model))

    for number in range(100):
        found = choose(lines, cursor, now, told_on)
        if not found.audits and number > ticks_before:
            break
        names = {line.seq: named(line) for line in lines}
        events = [(audit.asset, audit.model_version, names[audit.seq]) for audit in found.audits]
        assert len(events) <= AT_A_TIME
        if number == ticks_before:
            log += events[:killed_after]
            continue
        log += events
        cursor = found.cursor
    expected = [named(line) for line in lines if line.payload.get("to") != "candidate"]
    assert [name for _, _, name in log] == expected
    assert found.cursor == named(lines[-1])


def test_a_cursor_of_a_ledger_that_was_restored_since_is_no_cursor() -> None:
    """The number is given out again to another line; its hash is not."""
    lines = whole_story()
    now = START + MUCH_LATER
    stale = named(replace(lines[-1], hash="f" * 64))
    fresh = choose(lines, None, now, lambda *_: frozenset())
    assert len(fresh.audits) == len(lines) - 1
    assert choose(lines, stale, now, lambda *_: frozenset()) == fresh
    assert choose(lines, None, now, lambda *_: frozenset({stale})) == fresh
    assert not choose(lines, named(lines[-1]), now, lambda *_: frozenset()).audits


def test_no_cursor_passes_a_step_that_its_run_may_still_tell() -> None:
    """Nor does what happens to another release meanwhile take it along."""
    waiting = whole_story()[:4]  # the newest line is the look of shadow; before it the step that a run takes
    waiting = [line for line in waiting if line.kind == "transition"]
    other = replace(waiting[0], seq=9, subject="m-20261102-4567cdef-r1", kind="transition")
    other = replace(other, payload={**other.payload, "from": "production", "to": "superseded"})
    log: set[str] = set()
    soon = datetime.fromisoformat(waiting[-1].at) + OWN_REPORT / 2
    first = choose([*waiting, other], None, soon, lambda *_: frozenset(log))
    assert [audit.seq for audit in first.audits] == [waiting[1].seq, other.seq]
    log |= {named(waiting[1]), named(other)}
    later = choose([*waiting, other], first.cursor, soon + OWN_REPORT, lambda *_: frozenset(log))
    assert [audit.seq for audit in later.audits] == [waiting[2].seq]
    assert later.cursor == named(other)


def test_a_tick_reads_only_what_is_behind_its_cursor(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger grows for years; a sensor ticks every half minute."""
    store, read = daemon.world.store, []
    lines_of = store.ledger.lines
    monkeypatch.setattr(store.ledger, "lines", lambda **where: read.append(lines_of(**where)) or read[-1])
    cursor = daemon.cursors[rollout_sensor.name]
    assert cursor
    assert not untold(store, cursor, lambda *_: frozenset()).audits
    assert [len(lines) for lines in read] == [1, 0]
    restored = f"{cursor.split()[0]} {'f' * 64}"
    everything = untold(store, None, lambda *_: frozenset())
    assert everything.audits
    assert untold(store, restored, lambda *_: frozenset()) == everything
    assert untold(store, f"999999 {'f' * 64}", lambda *_: frozenset()) == everything


def test_an_event_is_of_a_size_that_an_event_log_bears(daemon: Daemon) -> None:
    model = harmful(daemon)
    daemon.tick()
    for asset in RELEASE_ASSETS:
        for record in daemon.told(asset, model):
            told = metadata_of(record)
            assert len(str(told["chart"])) < 60_000
            assert len(str(told["story"])) < 20_000
