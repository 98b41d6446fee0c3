"""Release sensors: a published bundle becomes a candidate; telemetry and decisions move the rollout.

The rollout sensor undoes harm itself, inside its tick; only promotions become runs. What no run tells (a rollback, what
a person decided, a look) it tells on the assets: from the ledger, so that a tick that was killed half-way is made good.
"""

from collections.abc import Callable, Sequence
from functools import cache

from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    AssetRecordsFilter,
    AssetSelection,
    DagsterInstance,
    DefaultSensorStatus,
    EventLogRecord,
    ResourceParam,
    RunRequest,
    SensorEvaluationContext,
    SensorResult,
    define_asset_job,
    sensor,
)

from voice_pipeline.partitions import model_version
from voice_pipeline.release.assets import TO_STATE_TAG, page_metadata
from voice_pipeline.release.candidate import awaiting_registration
from voice_pipeline.release.controller import tick_by_standing_policy
from voice_pipeline.release.story.audits import Audit, untold
from voice_pipeline.release.story.presentation import LEDGER_LINE
from voice_pipeline.release.turns import Promotion
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.store.store import Store

EVENTS = 1000
"""Newest events of an asset's partition among which a ledger line is looked for."""

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
    result = tick_by_standing_policy(store)
    found = untold(store, context.cursor, _told_on(context.instance))
    audits = [_event(store, audit) for audit in found.audits]
    requests = [_request(step) for step in result.due]
    return _result(requests, audits, "; ".join(result.notes) or "nothing rolls out", found.cursor)


def _request(step: Promotion) -> RunRequest:
    judged_again = step.to_state is ReleaseState.CANDIDATE
    return RunRequest(
        run_key=step.run_key,
        job_name="release_job" if judged_again else "rollout_job",
        partition_key=step.model_version,
        asset_selection=[AssetKey(step.asset)],
        tags={TO_STATE_TAG: step.to_state.value},
    )


def _told_on(instance: DagsterInstance) -> Callable[[str, str], frozenset[str]]:
    """Which ledger lines the events on (asset, model version) tell, each asked of the event log at most once."""

    @cache
    def told_on(asset: str, model: str) -> frozenset[str]:
        wanted = AssetRecordsFilter(AssetKey(asset), asset_partitions=[model])
        steps, looks = instance.fetch_materializations(wanted, EVENTS), instance.fetch_observations(wanted, EVENTS)
        events = [*(r.asset_materialization for r in steps.records), *(_observation(r) for r in looks.records)]
        return frozenset(str(e.metadata[LEDGER_LINE].value) for e in events if e and LEDGER_LINE in e.metadata)

    return told_on


def _observation(record: EventLogRecord) -> AssetObservation | None:
    return record.event_log_entry.asset_observation


def _event(store: Store, audit: Audit) -> AssetMaterialization | AssetObservation:
    """A ledger line, visible on the asset: what it tells happened already."""
    kind = AssetMaterialization if audit.is_step else AssetObservation
    metadata = page_metadata(store, audit.release_id, audit.seq)
    return kind(asset_key=audit.asset, partition=audit.model_version, metadata=metadata)


def _result(
    requests: list[RunRequest],
    audits: Sequence[AssetMaterialization | AssetObservation],
    otherwise: str,
    cursor: str | None = None,
) -> SensorResult:
    if requests:
        return SensorResult(run_requests=requests, asset_events=audits, cursor=cursor)
    return SensorResult(skip_reason=otherwise, asset_events=audits, cursor=cursor)


jobs = [release_job, rollout_job]
sensors = [signed_bundle_sensor, rollout_sensor]
