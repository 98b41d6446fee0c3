"""Shell: fires training when the policy decides so, and mirrors the ledger into MLflow's aliases."""

from collections.abc import Iterator

from dagster import (
    AssetSelection,
    DefaultSensorStatus,
    OpExecutionContext,
    ResourceParam,
    RunRequest,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    define_asset_job,
    job,
    op,
    sensor,
)

from voice_pipeline.partitions import model_version
from voice_pipeline.schema.canonical import digest
from voice_pipeline.store.store import Store
from voice_pipeline.training.decisions import decide
from voice_pipeline.training.planning import Plan, act, read_policy
from voice_pipeline.training.registry import MIRROR_HOURS, standing
from voice_pipeline.training.stages import mirror, trained_models

training_job = define_asset_job(
    "training_job",
    selection=AssetSelection.assets(
        "training_plan",
        "acoustic_model",
        "language_model",
        "confidence_model",
        "evaluation_report",
        "model_card",
        "onnx_model",
        "quantized_model",
        "signed_bundle",
    ),
    partitions_def=model_version,
    description="Plan to signed bundle for one model version.",
)


@op(description="Set MLflow's champion, challenger and shadow to what the ledger says; log what MLflow missed.")
def mirror_registry(context: OpExecutionContext, store: ResourceParam[Store]) -> None:
    context.log.info(mirror(store))


@job(description="Mirror the release states into the MLflow registry.")
def registry_job() -> None:
    mirror_registry()


@sensor(
    job=training_job,
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    description="New data, drift incidents and requests become training runs, within policy/retrain.yaml.",
)
def retrain_decision_sensor(context: SensorEvaluationContext, store: ResourceParam[Store]) -> SensorResult:
    plans = act(store, read_policy(store))
    if not plans:
        waiting = "; ".join(decision.reason for decision in decide(store, read_policy(store)))
        return SensorResult(skip_reason=SkipReason(waiting or "nothing new to train on"))
    return SensorResult(
        dynamic_partitions_requests=[model_version.build_add_request([plan.model_version for plan in plans])],
        run_requests=[
            RunRequest(
                run_key=digest({"train": plan.model_version, "decision": plan.decision_id}),
                partition_key=plan.model_version,
                tags=_tags(plan),
            )
            for plan in plans
        ],
    )


def _tags(plan: Plan) -> dict[str, str]:
    """A run that answers incidents names them; one that answers none has no such tag to find it by."""
    incidents = {"incident": ",".join(plan.cause.incidents)} if plan.cause.incidents else {}
    return {"cause": plan.cause.label, **incidents}


@sensor(
    job=registry_job,
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    description="Mirrors the live, coming and shadow release into MLflow; what it missed follows every 3 h.",
)
def registry_sensor(context: SensorEvaluationContext, store: ResourceParam[Store]) -> Iterator[RunRequest | SkipReason]:
    now = standing(store)
    if now.since == 0 and not trained_models(store):
        yield SkipReason("no model yet")
    else:
        again = int(store.now().timestamp() // (MIRROR_HOURS * 3600))
        yield RunRequest(run_key=digest({**now.aliases, "since": now.since, "again": again}))


sensors = [retrain_decision_sensor, registry_sensor]
jobs = [training_job, registry_job]
