"""What is read of a stage: history from before the rollout, who is expected, and all answers of a shadow stage."""

from __future__ import annotations

from datetime import timedelta

import pytest

from voice_pipeline.release.analysis.harm import harm_tests
from voice_pipeline.release.analysis.observations import CANDIDATE, CONTROL, StageTelemetry, read_stage, stage_began
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.releases import live
from voice_pipeline_tests.release.analysis.test_mixed_apps import NEW, OLD, mixed
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.world import Behaviour, World

ACTIVE = 600.0


def read(world: World, model: str, active_minutes: float = ACTIVE) -> StageTelemetry:
    now_live = live(world.store)
    assert now_live is not None
    return read_stage(world.store, world.view(model), now_live, 20.0, active_minutes, world.policy.compatibility)


def bring(world: World, model: str, stage: S) -> None:
    for _ in range(6):
        if world.view(model).state is stage:
            break
        world.report()
        world.settle()
    assert world.view(model).state is stage, world.view(model).transitions[-1].reason


@pytest.mark.parametrize("stage", [S.SHADOW, S.CANARY_5, S.CANARY_25, S.CANARY_50])
def test_history_is_what_devices_did_before_the_rollout_at_every_stage(small: World, stage: S) -> None:
    model = in_stage(small, stage)
    small.report(minutes=5)
    began = stage_began(small.view(model), S.SHADOW)
    for data in (found := read(small, model)).offered, found.comparable:
        told = data.before.dictations
        assert {one.device_id for one in told} == {f"device-{number:04d}" for number in range(small.devices)}
        assert all(began - timedelta(minutes=ACTIVE) < one.at <= began for one in told)


def test_a_device_is_expected_that_was_heard_just_before_the_stage_not_before_the_rollout(small: World) -> None:
    """100 devices are heard in every round, 50 more before the shadow stage only."""
    small.devices = 150
    first = small.model(0.2)
    small.bootstrap(first)
    small.report()
    model = small.model(0.1)
    small.register(model)
    small.settle()
    small.devices = 100
    bring(small, model, S.CANARY_25)
    everybody, recent = (read(small, model, minutes).comparable for minutes in (ACTIVE, 60.0))
    assert sum(map(len, everybody.expected.values())) == 150
    assert sum(map(len, recent.expected.values())) == 100
    assert len(recent.before.correction_rates) == 150


def test_in_a_shadow_stage_harm_is_looked_for_before_the_candidate_runs_beside(small: World) -> None:
    """Some devices of the candidate's arm run nothing beside: they are watched, and do not speak for it."""
    model = in_stage(small, S.SHADOW)
    small.report(minutes=5)
    found = read(small, model)
    assert found.offered.arms[CONTROL] == found.comparable.arms[CONTROL]
    assert {one.shadow_model_version for one in found.comparable.arms[CANDIDATE]} == {model}
    small.shadow[model] = Behaviour(silent=True)
    small.report(minutes=5)
    later = read(small, model)
    assert later.comparable.arms[CANDIDATE] == found.comparable.arms[CANDIDATE]
    assert len(later.offered.arms[CANDIDATE]) == 2 * len(found.offered.arms[CANDIDATE])


def test_devices_whose_apps_run_nothing_else_are_named_and_held_against_the_others(small: World) -> None:
    _, coming = mixed(small, with_usual_model=False)
    small.behaviour[coming] = Behaviour(crash_on={OLD: 1.0})
    small.settle()
    bring(small, coming, S.CANARY_25)
    small.report(minutes=5)
    offered = read(small, coming).offered
    of_old_apps = {one.device_id for arm in offered.arms.values() for one in arm if one.app_version == OLD}
    assert of_old_apps == offered.candidate_only != set()
    assert read(small, coming).comparable.candidate_only == frozenset()
    small.apps = (NEW,)  # an update in the stage moves nobody
    small.report(minutes=5)
    updated = read(small, coming).offered
    assert {one.app_version for arm in updated.arms.values() for one in arm if one.device_id in of_old_apps} == {
        OLD,
        NEW,
    }
    assert updated.candidate_only == of_old_apps
    crash = harm_tests(small.policy.guardrails, offered, offered.before.latency(80.0))["crash"]
    assert crash.harmful
    assert {one.app_version for arm in read(small, coming).comparable.arms.values() for one in arm} == {NEW}


def test_an_update_before_the_stage_counts(small: World) -> None:
    _, coming = mixed(small, with_usual_model=False)
    small.settle()
    bring(small, coming, S.CANARY_5)
    small.report(minutes=5)
    assert read(small, coming).offered.candidate_only != frozenset()
    small.apps = (NEW,)
    bring(small, coming, S.CANARY_25)
    small.report(minutes=5)
    assert read(small, coming).offered.candidate_only == frozenset()
