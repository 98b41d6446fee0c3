"""The Dagster shell: telemetry leads to reports through the real job, alarms reach people once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import time_machine
from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    Definitions,
    RunRequest,
    asset,
    asset_check,
    build_run_status_sensor_context,
    build_sensor_context,
    job,
    load_asset_checks_from_modules,
    load_assets_from_modules,
    materialize,
    op,
)

from voice_pipeline.monitoring import assets, checks
from voice_pipeline.monitoring.drift import DriftReport, DriftStatus
from voice_pipeline.monitoring.quality import report_quality
from voice_pipeline.monitoring.reports import DRIFT, JUDGED, newest_report
from voice_pipeline.monitoring.sensors import (
    RECENT_RUNS,
    alert_sensor,
    failed_run_sensor,
    jobs,
    monitoring_job,
    sensors,
    telemetry_sensor,
)
from voice_pipeline.monitoring.windows import build_windows
from voice_pipeline.schema.monitoring import IncidentKind
from voice_pipeline.schema.monitoring_policy import load_monitoring_policy
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.incidents import incidents
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import alerts, reports
from voice_pipeline_tests.monitoring.world import go_live, report, speech, train_on


@pytest.fixture
def instance() -> DagsterInstance:
    return DagsterInstance.ephemeral()


def tick(sensor: Any, store: Store, instance: DagsterInstance) -> list[RunRequest]:
    context = build_sensor_context(
        instance=instance, repository_def=definitions(store).get_repository_def(), resources={"store": store}
    )
    return list(sensor.evaluate_tick(context).run_requests or [])


def definitions(store: Store) -> Definitions:
    return Definitions(
        assets=load_assets_from_modules([assets]),
        asset_checks=load_asset_checks_from_modules([checks]),
        jobs=jobs,
        sensors=sensors,
        resources={"store": store},
    )


def run(store: Store, instance: DagsterInstance, request: RunRequest) -> Any:
    return (
        definitions(store)
        .resolve_job_def(monitoring_job.name)
        .execute_in_process(instance=instance, partition_key=request.partition_key, raise_on_error=True)
    )


def test_telemetry_leads_to_reports_an_incident_and_a_warning_and_then_to_rest(
    store: Store, clock: ManualClock, instance: DagsterInstance
) -> None:
    train_on(store, speech(np.random.default_rng(0), 300))
    go_live(store)
    assert tick(telemetry_sensor, store, instance) == []
    day = report(store, speech(np.random.default_rng(1), 600, 2.0))
    (request,) = tick(telemetry_sensor, store, instance)
    assert request.partition_key == day
    assert tick(telemetry_sensor, store, instance)[0].run_key == request.run_key
    result = run(store, instance, request)
    failed = [e.check_name for e in result.get_asset_check_evaluations() if not e.passed]
    assert failed == ["inputs_have_not_drifted"]
    kinds = {row["kind"] for row in store.database.rows(reports.select())}
    assert kinds == {*JUDGED, "windows"}
    found = newest_report(store, DRIFT, DriftReport)
    assert found is not None
    assert found.status is DriftStatus.DRIFTED
    assert tick(telemetry_sensor, store, instance) == []
    clock.advance(timedelta(minutes=5))
    report(store, speech(np.random.default_rng(2), 5, 2.0), seed=1)
    assert tick(telemetry_sensor, store, instance) == [], "five more events are no new level"


def test_an_incident_and_a_failed_check_are_told_once(store: Store, instance: DagsterInstance) -> None:
    train_on(store, speech(np.random.default_rng(0), 300))
    go_live(store)
    report(store, speech(np.random.default_rng(1), 600, 2.0))
    run(store, instance, tick(telemetry_sensor, store, instance)[0])
    for _ in range(3):
        tick(alert_sensor, store, instance)
    titles = sorted(row["title"] for row in store.database.rows(alerts.select()))
    assert len(titles) == 2
    assert titles[0].startswith("check inputs_have_not_drifted of drift_report failed")
    assert titles[1].endswith("input_drift → retrain")


def test_a_finding_is_told_once_a_day_however_often_the_day_is_reported_on(
    store: Store, clock: ManualClock, instance: DagsterInstance
) -> None:
    train_on(store, speech(np.random.default_rng(0), 300))
    go_live(store)
    told = []
    for seed in range(3):
        if seed == 2:
            clock.advance(timedelta(days=1))
        report(store, speech(np.random.default_rng(seed), 600, 2.0), seed=seed)
        run(store, instance, tick(telemetry_sensor, store, instance)[0])
        tick(alert_sensor, store, instance)
        titles = [row["title"] for row in store.database.rows(alerts.select())]
        told.append(sum("inputs_have_not_drifted" in title for title in titles))
    assert told == [1, 1, 2]


def test_a_broken_limit_is_the_same_finding_while_its_figure_moves(store: Store) -> None:
    train_on(store, speech(np.random.default_rng(0), 20))
    go_live(store)
    found = set()
    for latency in (2000.0, 3000.0):
        day = report(store, speech(np.random.default_rng(1), 300), latency_ms=latency, seed=int(latency))
        build_windows(store, day)
        report_quality(store, load_monitoring_policy(PROJECT_ROOT / "policy"), day)
        found.add(checks.quality_is_within_policy(store=store).description)  # type: ignore[call-arg,union-attr]
    assert found == {"latency_p95_ms beyond the limit"}


def test_checks_that_pass_are_not_told(store: Store, instance: DagsterInstance) -> None:
    @asset
    def thing() -> None: ...

    @asset_check(asset=thing)
    def fine() -> AssetCheckResult:
        return AssetCheckResult(passed=True, severity=AssetCheckSeverity.WARN)

    materialize([thing, fine], instance=instance)
    tick(alert_sensor, store, instance)
    assert not store.database.rows(alerts.select())


def test_a_failed_check_is_told_however_many_runs_wait(store: Store, instance: DagsterInstance) -> None:
    @asset
    def thing() -> None: ...

    @asset_check(asset=thing)
    def broken() -> AssetCheckResult:
        return AssetCheckResult(passed=False, severity=AssetCheckSeverity.WARN)

    with time_machine.travel(datetime(2026, 11, 1, tzinfo=UTC)):
        materialize([thing, broken], instance=instance)
    for _ in range(RECENT_RUNS):
        instance.add_run(DagsterRun(job_name=monitoring_job.name, status=DagsterRunStatus.NOT_STARTED))
    tick(alert_sensor, store, instance)
    (alert,) = store.database.rows(alerts.select())
    assert alert["title"] == "check broken of thing failed"


def test_a_failed_run_opens_an_incident_and_alerts(store: Store, instance: DagsterInstance) -> None:
    @op
    def break_down() -> None:
        raise RuntimeError("disk full")

    @job
    def nightly() -> None:
        break_down()

    result = nightly.execute_in_process(instance=instance, raise_on_error=False)
    event = next(event for event in result.all_events if event.event_type_value == "PIPELINE_FAILURE")
    context = build_run_status_sensor_context(
        sensor_name="failed_run_sensor",
        dagster_instance=instance,
        dagster_run=result.dagster_run,
        dagster_event=event,
        resources={"store": store},
    ).for_run_failure()
    failed_run_sensor(context)
    failed_run_sensor(context)
    (incident,) = incidents(store)
    assert incident.kind is IncidentKind.PIPELINE_FAILURE
    assert "nightly" in incident.summary
    assert len(store.database.rows(alerts.select())) == 1


def test_all_sensors_run_by_default() -> None:
    assert {sensor.default_status.value for sensor in sensors} == {"RUNNING"}
