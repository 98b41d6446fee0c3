"""The Dagster shell: no way of running an asset walks around the evidence, and sensors ask once for what is due."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from dagster import (
    AssetSpec,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
    RepositoryDefinition,
    SensorDefinition,
    build_sensor_context,
    load_asset_checks_from_modules,
    load_assets_from_modules,
    materialize,
    partition_loading_context,
)
from dagster._core.definitions.sensor_definition import SensorExecutionData

from voice_pipeline.partitions import model_version
from voice_pipeline.release import assets, checks
from voice_pipeline.release.assets import TO_STATE_TAG, canary_release, production_release, release_candidate
from voice_pipeline.release.people.decisions import record_decision
from voice_pipeline.release.sensors import jobs, rollout_sensor, sensors, signed_bundle_sensor
from voice_pipeline.schema.release import Decision
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.releases import release_views
from voice_pipeline_tests.release.test_controller import in_stage
from voice_pipeline_tests.release.test_standing_policy import broken
from voice_pipeline_tests.release.world import Behaviour, World


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def run(world: World, instance: DagsterInstance, asset: object, model: str, **tags: str) -> ExecuteInProcessResult:
    instance.add_dynamic_partitions("model_version", [model])
    gates = load_asset_checks_from_modules([checks]) if asset is release_candidate else []
    return materialize(
        [asset, *gates],  # type: ignore[list-item]
        selection=[asset] if not gates else None,  # type: ignore[list-item]
        partition_key=model,
        instance=instance,
        resources={"store": world.store},
        tags=tags,
        raise_on_error=False,
    )


def failure(result: ExecuteInProcessResult) -> str:
    error = next(e for e in result.all_events if e.is_step_failure).step_failure_data.error
    assert error is not None
    return str(error.cause.message if error.cause else error.message)


def repository(world: World) -> RepositoryDefinition:
    return Definitions(
        assets=[AssetSpec("signed_bundle", partitions_def=model_version), *load_assets_from_modules([assets])],
        asset_checks=load_asset_checks_from_modules([checks]),
        jobs=jobs,
        sensors=sensors,
        resources={"store": world.store},
    ).get_repository_def()


def evaluate(
    world: World, instance: DagsterInstance, sensor: SensorDefinition, cursor: str | None = None
) -> SensorExecutionData:
    for view in release_views(world.store):
        instance.add_dynamic_partitions("model_version", [view.model_version])
    context = build_sensor_context(
        instance=instance, cursor=cursor, repository_def=repository(world), resources={"store": world.store}
    )
    with partition_loading_context(dynamic_partitions_store=instance):
        return sensor.evaluate_tick(context)


def test_a_canary_run_by_hand_is_refused_with_the_reason(small: World, instance: DagsterInstance) -> None:
    model = in_stage(small, S.SHADOW)
    result = run(small, instance, canary_release, model)
    assert not result.success
    assert "no fresh passing look at shadow" in failure(result)
    assert small.view(model).state is S.SHADOW


def test_a_canary_run_of_a_changed_bundle_is_refused_with_the_reason(small: World, instance: DagsterInstance) -> None:
    model = in_stage(small, S.SHADOW)
    small.report()
    assert evaluate(small, instance, rollout_sensor).run_requests
    small.change_bundle(model)
    result = run(small, instance, canary_release, model, **{TO_STATE_TAG: "canary_5"})
    assert not result.success
    assert "signature" in failure(result)


@pytest.mark.parametrize("asset", [canary_release, production_release])
def test_a_run_for_a_model_without_a_release_is_refused(small: World, instance: DagsterInstance, asset: object) -> None:
    model = small.model(0.2)
    result = run(small, instance, asset, model)
    assert not result.success
    assert "has no release; materialise release_candidate first" in failure(result)


def test_production_of_an_ungated_candidate_is_refused(small: World, instance: DagsterInstance) -> None:
    """Signed off or not: without verdicts under today's policy nothing goes live."""
    model = small.model(0.2)
    view = small.register(model)
    record_decision(small.store, view.release_id, Decision.APPROVE, small.person(), "first model")
    path = small.store.settings.policy_dir / "release.yaml"
    path.write_text(path.read_text().replace("version: 1", "version: 7"))
    result = run(small, instance, production_release, model)
    assert "has no verdict for this bundle under this policy" in failure(result)


def test_a_stage_that_does_not_exist_is_refused(small: World, instance: DagsterInstance) -> None:
    model = in_stage(small, S.SHADOW)
    assert "is no canary stage" in failure(run(small, instance, canary_release, model, **{TO_STATE_TAG: "production"}))


def test_a_published_bundle_asks_once_for_its_gates_and_these_are_checks(
    small: World, instance: DagsterInstance
) -> None:
    model = small.model(0.2)
    instance.add_dynamic_partitions("model_version", [model])
    asked = evaluate(small, instance, signed_bundle_sensor).run_requests
    assert asked is not None
    assert [request.partition_key for request in asked] == [model]
    assert evaluate(small, instance, signed_bundle_sensor).run_requests == asked
    result = run(small, instance, release_candidate, model)
    assert result.success
    assert {e.check_name for e in result.get_asset_check_evaluations()} >= {"latency", "coverage", "bundle_integrity"}
    assert all(e.passed for e in result.get_asset_check_evaluations())
    assert not evaluate(small, instance, signed_bundle_sensor).run_requests


def test_a_rejected_candidate_fails_its_check_with_the_figures(small: World, instance: DagsterInstance) -> None:
    small.bootstrap(small.model(0.2))
    result = run(small, instance, release_candidate, small.model(0.2))
    failed = [e for e in result.get_asset_check_evaluations() if not e.passed]
    assert [e.check_name for e in failed] == ["noisy_wer_improvement"]
    assert "probability of being worse" in str(failed[0].metadata["detail"].value)


def test_the_rollout_sensor_asks_for_exactly_the_step_that_is_due(small: World, instance: DagsterInstance) -> None:
    model = in_stage(small, S.SHADOW)
    waiting = evaluate(small, instance, rollout_sensor)
    assert not waiting.run_requests
    assert "0 of 30 minutes" in str(waiting.skip_message)
    small.report()
    asked = evaluate(small, instance, rollout_sensor).run_requests
    assert asked is not None
    assert [(r.job_name, r.partition_key, r.asset_selection) for r in asked] == [
        ("rollout_job", model, [canary_release.key])
    ]
    assert evaluate(small, instance, rollout_sensor).run_requests == asked
    result = run(small, instance, canary_release, model, **asked[0].tags)
    assert result.success
    assert small.view(model).state is S.CANARY_5
    again = run(small, instance, canary_release, model, **asked[0].tags)  # a daemon may launch it twice
    assert again.success
    assert small.view(model).state is S.CANARY_5


def test_harm_is_rolled_back_by_the_sensor_without_any_run(world: World, instance: DagsterInstance) -> None:
    model = in_stage(world, S.CANARY_5, Behaviour(correction=0.95, latency_ms=200))
    world.report(minutes=5)
    result = evaluate(world, instance, rollout_sensor)
    assert not result.run_requests
    assert world.view(model).state is S.ROLLED_BACK
    audit = result.asset_events[-1]
    assert audit.asset_key == canary_release.key
    assert audit.partition == model


def test_harm_is_told_on_the_assets_while_the_policy_is_invalid(world: World, instance: DagsterInstance) -> None:
    model = in_stage(world, S.CANARY_5, Behaviour(correction=0.95, latency_ms=200))
    broken(world)
    world.report(minutes=5)
    result = evaluate(world, instance, rollout_sensor)
    assert world.view(model).state is S.ROLLED_BACK
    assert result.asset_events[-1].partition == model
