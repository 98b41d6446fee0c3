"""Dagster shell: telemetry asks for reports; incidents, failed checks and failed runs tell people."""

from collections.abc import Iterator

from dagster import (
    AssetCheckEvaluation,
    AssetSelection,
    DagsterEventType,
    DagsterRunStatus,
    DefaultSensorStatus,
    ResourceParam,
    RunFailureSensorContext,
    RunRequest,
    RunsFilter,
    SensorEvaluationContext,
    SkipReason,
    define_asset_job,
    run_failure_sensor,
    sensor,
)

from voice_pipeline.monitoring.alarms import (
    FailedCheck,
    alert_failed_checks,
    alert_failed_run,
    alert_incidents,
    retry_deliveries,
)
from voice_pipeline.monitoring.schedule import due_days
from voice_pipeline.partitions import capture_date
from voice_pipeline.schema.monitoring_policy import load_monitoring_policy
from voice_pipeline.store.store import Store

RECENT_RUNS = 50
"""Runs whose checks are read at each tick: many more than can end between two ticks."""
BEGUN = [DagsterRunStatus.STARTED, DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]
"""Runs that may have checked something; those that wait must not crowd them out."""

monitoring_job = define_asset_job(
    "monitoring_job",
    selection=AssetSelection.assets("telemetry_windows", "drift_report", "concept_drift_report", "quality_report"),
    partitions_def=capture_date,
    description="Report on one day of telemetry.",
)


@sensor(
    job=monitoring_job,
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    description="Reports on a day again each time its telemetry has grown by a share or a step of the policy.",
)
def telemetry_sensor(
    _context: SensorEvaluationContext, store: ResourceParam[Store]
) -> Iterator[RunRequest | SkipReason]:
    due = due_days(store, load_monitoring_policy(store.settings.policy_dir).telemetry)
    if not due:
        yield SkipReason("no day has enough new telemetry")
    for item in due:
        yield RunRequest(run_key=item.run_key, partition_key=item.day, tags={"cause": item.reason})


@sensor(
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    description="Tells people about new incidents and failed checks, and retries undelivered alerts.",
)
def alert_sensor(context: SensorEvaluationContext, store: ResourceParam[Store]) -> SkipReason:
    told = alert_incidents(store) + alert_failed_checks(store, _failed_checks(context))
    retried = retry_deliveries(store)
    return SkipReason(f"{told} new alerts, {retried} delivered late")


@run_failure_sensor(
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    description="Opens an incident and tells people when a run fails.",
)
def failed_run_sensor(context: RunFailureSensorContext, store: ResourceParam[Store]) -> None:
    run = context.dagster_run
    partition = run.tags.get("dagster/partition", "")
    alert_failed_run(store, run.run_id, run.job_name, partition, context.failure_event.message or "no message")


def _failed_checks(context: SensorEvaluationContext) -> list[FailedCheck]:
    """Failed evaluations of the runs that began or ended last."""
    runs = context.instance.get_run_records(RunsFilter(statuses=BEGUN), limit=RECENT_RUNS, order_by="update_timestamp")
    found = []
    for run in [record.dagster_run for record in runs]:
        partition = run.tags.get("dagster/partition", "")
        for entry in context.instance.all_logs(run.run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION):
            data = entry.dagster_event.event_specific_data if entry.dagster_event else None
            if isinstance(data, AssetCheckEvaluation) and not data.passed:
                name, asset_key = data.check_name, data.asset_key.to_user_string()
                found.append(FailedCheck(run.run_id, partition, asset_key, name, data.description or ""))
    return found


sensors = [telemetry_sensor, alert_sensor, failed_run_sensor]
jobs = [monitoring_job]
