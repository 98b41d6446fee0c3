"""Release sensors: a published bundle becomes a candidate; telemetry and decisions move the rollout.

The rollout sensor undoes harm itself, inside its tick; only promotions become runs.
"""

from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetSelection,
    DefaultSensorStatus,
    ResourceParam,
    RunRequest,
    SensorEvaluationContext,
    SensorResult,
    define_asset_job,
    sensor,
)

from voice_pipeline.partitions import model_version
from voice_pipeline.release.assets import TO_STATE_TAG
from voice_pipeline.release.candidate import awaiting_registration
from voice_pipeline.release.controller import Promotion, tick
from voice_pipeline.release.policy import release_policy
from voice_pipeline.release.presentation import facts
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.store.releases import find_release
from voice_pipeline.store.store import Store

ROLLOUT = ("shadow_release", "canary_release", "production_release")

release_job = define_asset_job(
    "release_job",
    selection=AssetSelection.assets("release_candidate"),
    partitions_def=model_version,
    description="Register a published bundle as a release and judge it by every gate.",
)
rollout_job = define_asset_job(
    "rollout_job",
    selection=AssetSelection.assets(*ROLLOUT),
    partitions_def=model_version,
    description="Take one step of a rollout: shadow, a canary stage, or production.",
)


@sensor(
    job=release_job,
    default_status=DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="A published bundle without a release asks for its gates.",
)
def signed_bundle_sensor(context: SensorEvaluationContext, store: ResourceParam[Store]) -> SensorResult:
    waiting = awaiting_registration(store)
    return _result([RunRequest(partition_key=model, run_key=key) for model, key in waiting], [], "no new bundle")


@sensor(
    jobs=[rollout_job, release_job],
    default_status=DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="One tick of the release controller: harm is rolled back at once, promotions that are due become runs.",
)
def rollout_sensor(context: SensorEvaluationContext, store: ResourceParam[Store]) -> SensorResult:
    result = tick(store, release_policy(store))
    audits = [_audit(store, release_id) for release_id in result.rolled_back]
    return _result([_request(step) for step in result.due], audits, "; ".join(result.notes) or "nothing rolls out")


def _request(step: Promotion) -> RunRequest:
    judged_again = step.to_state is ReleaseState.CANDIDATE
    return RunRequest(
        run_key=step.run_key,
        job_name="release_job" if judged_again else "rollout_job",
        partition_key=step.model_version,
        asset_selection=[AssetKey(step.asset)],
        tags={TO_STATE_TAG: step.to_state.value},
    )


def _audit(store: Store, release_id: str) -> AssetMaterialization:
    """The rollback, visible on the asset; it happened in the ledger already."""
    view = find_release(store, release_id)
    assert view is not None
    came_from = view.transitions[-1].from_state
    asset = {ReleaseState.SHADOW: "shadow_release", ReleaseState.PRODUCTION: "production_release"}
    key = asset.get(came_from, "canary_release") if came_from else "canary_release"
    return AssetMaterialization(asset_key=key, partition=view.model_version, metadata=facts(view))


def _result(requests: list[RunRequest], audits: list[AssetMaterialization], otherwise: str) -> SensorResult:
    if requests:
        return SensorResult(run_requests=requests, asset_events=audits)
    return SensorResult(skip_reason=otherwise, asset_events=audits)


jobs = [release_job, rollout_job]
sensors = [signed_bundle_sensor, rollout_sensor]
