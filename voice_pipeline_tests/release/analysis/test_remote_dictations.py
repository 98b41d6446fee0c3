"""What the edge dictated, with the live model, speaks neither for nor against a candidate."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from voice_pipeline.release.analysis.observations import CANDIDATE, CONTROL, read_stage
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.releases import live
from voice_pipeline.store.tables import telemetry
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import Behaviour, World


@pytest.mark.parametrize("stage", [S.SHADOW, S.CANARY_25])
def test_remote_dictations_are_in_neither_arm_and_in_no_baseline_yet_their_devices_are_heard(
    small: World, stage: S
) -> None:
    small.devices = 60
    model = in_stage(small, stage, Behaviour())
    small.report(minutes=5)
    everything = _stage(small, model)
    all_heard = {*everything.heard[CANDIDATE], *everything.heard[CONTROL]}
    away = set(sorted(all_heard)[::2])
    _have_the_edge_answer(small, away)
    found = _stage(small, model)
    told = [*found.arms[CANDIDATE], *found.arms[CONTROL], *found.before.dictations]
    assert {one.device_id for one in told} == all_heard - away
    assert (found.heard, found.expected) == (everything.heard, everything.expected)


def _stage(world: World, model: str):  # type: ignore[no-untyped-def]
    from voice_pipeline.store.store import Store

    store = Store.open(world.store.settings, world.clock)  # a process that read nothing yet
    now_live = live(store)
    assert now_live is not None
    return read_stage(store, world.view(model), now_live, 50.0, 600.0, world.policy.compatibility).offered


def _have_the_edge_answer(world: World, devices: set[str]) -> None:
    with world.store.database.write() as connection:
        for row in connection.execute(select(telemetry.c.event_id, telemetry.c.event)).all():
            if row.event["device_id"] in devices:
                changed = {**row.event, "answered": "remote"}
                connection.execute(update(telemetry).where(telemetry.c.event_id == row.event_id).values(event=changed))
