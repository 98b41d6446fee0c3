"""A fleet of old and new apps: harm is seen on each that the candidate reaches, and only likes are compared."""

from __future__ import annotations

import pytest
from sqlalchemy import delete

from voice_pipeline.release.controller import tick
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import bundles
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import Behaviour, World

OLD, NEW = "1.2.0", "1.4.0"


def mixed(world: World, with_usual_model: bool) -> tuple[str, str]:
    """Two thirds of the devices on the old app, a live model that needs the new one, and a candidate that does not.

    Returns the models of the old apps (none runs there without `with_usual_model`, then the live one) and to come.
    """
    world.apps, world.devices = (OLD, NEW, OLD), 400
    usual = live = world.model(0.3, min_app="1.0.0" if with_usual_model else NEW)
    world.bootstrap(usual)
    if with_usual_model:
        live = world.model(0.2, min_app=NEW)
        world.report()
        world.register(live)
        roll_out(world, live)
    assert world.view(live).state is S.PRODUCTION
    world.report()
    coming = world.model(0.1, min_app="1.0.0")
    world.register(coming)
    return usual, coming


def roll_out(world: World, model: str) -> S:
    """At most eight rounds of settling and reporting."""
    for _ in range(8):
        world.settle()
        if world.view(model).ended or world.view(model).state is S.PRODUCTION:
            break
        world.report()
    return world.view(model).state


@pytest.mark.parametrize("with_usual_model", [True, False])
def test_a_crash_on_apps_too_old_for_the_live_model_is_rolled_back(small: World, with_usual_model: bool) -> None:
    _, coming = mixed(small, with_usual_model)
    small.behaviour[coming] = Behaviour(crash_on={OLD: 1.0})
    assert roll_out(small, coming) is S.ROLLED_BACK
    assert small.view(coming).transitions[-1].reason.startswith("harm: crash ")


def test_a_healthy_model_reaches_production_where_old_apps_keep_an_older_one(small: World) -> None:
    usual, coming = mixed(small, with_usual_model=True)
    assert {small.assignment(n).model_version == usual for n in range(small.devices) if small.app(n) == OLD} == {True}
    assert roll_out(small, coming) is S.PRODUCTION, small.view(coming).transitions[-1].reason


def test_a_model_is_not_blamed_for_what_old_apps_do_with_their_usual_model_too(small: World) -> None:
    usual, coming = mixed(small, with_usual_model=True)
    for model in (usual, coming):
        small.behaviour[model] = Behaviour(crash_on={OLD: 0.5})
    assert roll_out(small, coming) is S.PRODUCTION, small.view(coming).transitions[-1].reason


def test_harm_is_seen_on_all_devices_where_nobody_knows_which_app_the_model_needs(small: World) -> None:
    small.devices = 300
    model = in_stage(small, S.CANARY_25, Behaviour(crash=1.0))
    small.report(minutes=5)
    with small.store.database.write() as connection:
        connection.execute(delete(bundles).where(bundles.c.model_version == model))
    tick(Store.open(small.store.settings, small.clock), small.policy)  # a process that never saw the bundle
    assert small.view(model).state is S.ROLLED_BACK
    assert small.view(model).transitions[-1].reason.startswith("harm: crash ")
