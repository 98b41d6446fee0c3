"""`kill -9` inside the write that changes the live model: afterwards the state before is found, and work goes on."""

from __future__ import annotations

import os
import signal

from voice_pipeline.release import machine
from voice_pipeline.release.controller import advance, tick
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.releases import live
from voice_pipeline.store.store import Store
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import World


def killed_in_the_transaction(world: World, model: str) -> int:
    """Take the step to production in a child that dies after its two ledger lines, before the commit."""
    child = os.fork()
    if child == 0:
        machine._mark = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        advance(Store.open(world.store.settings, world.clock), world.policy, model, S.PRODUCTION)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def test_a_controller_killed_while_it_changes_the_live_model_leaves_the_old_one_live(small: World) -> None:
    model = in_stage(small, S.CANARY_50)
    before = live(small.store)
    small.report()
    assert [step.to_state for step in tick(small.store, small.policy).due] == [S.PRODUCTION]
    small.store.database.engine.dispose()
    assert killed_in_the_transaction(small, model) == signal.SIGKILL
    again = Store.open(small.store.settings, small.clock)
    again.ledger.verify()
    assert live(again) == before
    assert small.view(model).state is S.CANARY_50
    assert advance(again, small.policy, model, S.PRODUCTION).state is S.PRODUCTION
