"""What somebody does by hand in the Dagster UI, to get a model to devices past its evidence: refused, reason shown.

A real webserver launches real runs on a home in which one model is live and another runs in its shadow. The tests come
in the order of its rollout; each run asks the stored evidence anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance

from voice_pipeline.release.analysis.looks import passing_look
from voice_pipeline.release.controller import tick
from voice_pipeline.release.people.decisions import record_decision
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.releases import rolling_out
from voice_pipeline_tests.browser.conftest import CHROMIUM
from voice_pipeline_tests.browser.webserver import Webserver, webserver
from voice_pipeline_tests.release.conftest import SMALL_FLEET
from voice_pipeline_tests.release.world import World, add_suite, open_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One model live, one in its shadow. Its clock is behind the real one, by which the runs judge, by some minutes."""
    clock = ManualClock(datetime.now(UTC) - timedelta(minutes=80))
    store = open_world(tmp_path_factory.mktemp("by-hand") / "home", clock, SMALL_FLEET)
    made = World(store, clock, add_suite(store), devices=60, dictations=4)
    made.bootstrap(made.model(0.2))
    made.report()
    made.register(made.model(0.1))
    made.settle()
    return made


@pytest.fixture(scope="module")
def candidate(world: World) -> str:
    trying = rolling_out(world.store)
    assert trying is not None
    return trying.model_version


@pytest.fixture(scope="module")
def rejected(world: World) -> str:
    """A model that is no better than the live one."""
    model = world.model(0.2)
    assert world.register(model).state is S.REJECTED
    return model


@pytest.fixture(scope="module")
def ui(world: World, candidate: str, rejected: str) -> Iterator[Webserver]:
    with webserver(world.store.settings) as served:
        with DagsterInstance.from_config(str(world.store.settings.dagster_home)) as instance:
            instance.add_dynamic_partitions("model_version", [candidate, rejected])
        yield served


@pytest.fixture(scope="module")
def passed(world: World, candidate: str) -> int:
    """The ledger line of the look with which the shadow passed: nothing but the attack itself is in the way now."""
    world.report()
    tick(world.store, world.policy)
    look = passing_look(world.store, world.policy, world.view(candidate))
    assert look is not None
    return look.seq


def test_a_canary_without_a_passing_look(ui: Webserver, world: World, candidate: str) -> None:
    run = ui.materialize(["canary_release"], candidate)
    assert not run.success
    assert "may not go from shadow to canary_5: no fresh passing look at shadow" in run.reason
    assert world.view(candidate).state is S.SHADOW


@pytest.mark.browser
@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs Debian's chromium: apt-get install chromium")
def test_the_page_of_the_run_shows_why(ui: Webserver, candidate: str, page: Any) -> None:
    """Materialize is clicked on the asset's page, and the reason read on that of its run."""
    before = ui.run_ids()
    page.goto(f"{ui.url}/assets/canary_release?view=partitions&partition={candidate}")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="Confirm").click()  # Dagster misses shadow_release, which the engine took by itself
    page.get_by_role("button", name="Launch 1 run").click()
    page.get_by_role("button", name="Launch").wait_for(state="detached")
    (launched,) = ui.run_ids() - before
    page.goto(f"{ui.url}/runs/{launched}")
    page.get_by_text("no fresh passing look at shadow").first.wait_for(timeout=180_000)


def test_a_rejected_candidate_with_its_checks_deselected(ui: Webserver, world: World, rejected: str) -> None:
    run = ui.materialize(["release_candidate", "shadow_release", "canary_release"], rejected, checks=())
    assert not run.success
    assert "cannot go from rejected to shadow" in run.reason
    assert world.view(rejected).state is S.REJECTED


def test_production_at_once(ui: Webserver, world: World, candidate: str, passed: int) -> None:
    run = ui.materialize(["production_release"], candidate)
    assert not run.success
    assert "may not go from shadow to production" in run.reason
    assert world.view(candidate).state is S.SHADOW


@pytest.mark.parametrize(
    ("stage", "reason"),
    [("canary_50", "cannot go from shadow to canary_50"), ("production", "'production' is no canary stage")],
)
def test_a_stage_written_into_the_tag(
    ui: Webserver, world: World, candidate: str, passed: int, stage: str, reason: str
) -> None:
    run = ui.materialize(["canary_release"], candidate, to_state=stage)
    assert not run.success
    assert reason in run.reason
    assert world.view(candidate).state is S.SHADOW


def test_a_bundle_whose_file_changed(ui: Webserver, world: World, candidate: str, passed: int) -> None:
    before = world.change_bundle(candidate)
    try:
        run = ui.materialize(["canary_release"], candidate)
    finally:
        world.restore_bundle(candidate, before)
    assert not run.success
    assert "signature" in run.reason
    assert world.view(candidate).state is S.SHADOW


def test_an_older_run_executed_again_after_a_rollback(ui: Webserver, world: World, candidate: str, passed: int) -> None:
    """The run was right once: with the look it takes the step. What it did is no evidence for doing it again."""
    run = ui.materialize(["canary_release"], candidate, to_state="canary_5")
    assert run.success, run.reason
    assert world.view(candidate).state is S.CANARY_5
    record_decision(world.store, world.view(candidate).release_id, Decision.ROLLBACK, world.person(), "users complain")
    again = ui.execute_again(run.run_id)
    assert not again.success
    assert "may not go from rolled_back to canary_5" in again.reason
    assert world.view(candidate).state is S.ROLLED_BACK
