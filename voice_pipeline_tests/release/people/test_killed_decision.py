"""`kill -9` of `voice-pipeline release rollback` at every step: nothing was decided, or it is done and will be told."""

from __future__ import annotations

import os
import signal
from types import ModuleType

import pytest

from voice_pipeline.release import machine, rollback
from voice_pipeline.release.controller import tick
from voice_pipeline.release.people import decisions
from voice_pipeline.release.people.decisions import DECISION, record_decision
from voice_pipeline.schema.monitoring import IncidentKind
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.incidents import open_incidents
from voice_pipeline.store.releases import live
from voice_pipeline.store.store import Store
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import World


def rolled_back_by_a_child(world: World, module: ModuleType, function: str) -> int:
    """Roll the live model back in a child that dies where it would call `function`."""
    world.store.database.engine.dispose()
    child = os.fork()
    if child == 0:
        setattr(module, function, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        store = Store.open(world.store.settings, world.clock)
        now = live(store)
        assert now is not None
        record_decision(store, now.release_id, Decision.ROLLBACK, world.person(), "complaints")
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.fixture
def second_is_live(small: World) -> str:
    model = in_stage(small, S.CANARY_50)
    for _ in range(3):
        small.report()
        small.settle()
    assert small.view(model).state is S.PRODUCTION
    small.person()
    return model


@pytest.mark.parametrize(
    ("module", "function"),
    [(decisions, "verified"), (decisions, "write_steps"), (machine, "check_step"), (machine, "_mark")],
    ids=["decided", "about to act", "at the first step", "before the commit"],
)
def test_killed_before_the_commit_nothing_was_decided(
    small: World, second_is_live: str, module: ModuleType, function: str
) -> None:
    assert rolled_back_by_a_child(small, module, function) == signal.SIGKILL
    small.store.ledger.verify()
    assert small.view(second_is_live).state is S.PRODUCTION
    assert [line for line in small.store.ledger.lines(kind=DECISION) if line.payload["decision"] == "rollback"] == []
    tick(small.store, small.policy)
    assert small.view(second_is_live).state is S.PRODUCTION
    record_decision(small.store, small.view(second_is_live).release_id, Decision.ROLLBACK, small.person(), "complaints")
    assert small.view(second_is_live).state is S.ROLLED_BACK


@pytest.mark.parametrize(
    ("module", "function"), [(decisions, "tell_untold"), (rollback, "open_incident"), (rollback, "raise_alert")]
)
def test_killed_after_the_commit_devices_are_safe_and_the_next_tick_tells(
    small: World, second_is_live: str, module: ModuleType, function: str
) -> None:
    before = small.view(second_is_live).previous_live
    assert rolled_back_by_a_child(small, module, function) == signal.SIGKILL
    now = live(small.store)
    assert now is not None
    assert now.release_id == before
    assert small.assignment(1).release_id == before
    tick(small.store, small.policy)
    tick(small.store, small.policy)
    assert len(open_incidents(small.store, IncidentKind.RELEASE_HARM)) == 1
