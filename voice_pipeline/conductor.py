"""Drives the real Dagster definitions without a daemon: evaluates every sensor and executes what it asks for, until
nothing is asked any more. This is what the daemon does, in one process and on any clock; run keys are honoured alike.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dagster import (
    AddDynamicPartitionsRequest,
    DagsterInstance,
    DagsterRunStatus,
    ResourceDefinition,
    RunRequest,
    RunsFilter,
    RunStatusSensorDefinition,
    SensorDefinition,
    SensorEvaluationContext,
    partition_loading_context,
)

from voice_pipeline.definitions import build_definitions
from voice_pipeline.store.store import Store

RUN_KEY_TAG = "dagster/run_key"
SENSOR_TAG = "dagster/sensor_name"
QUIET_CONSOLE = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class RunFailedError(Exception):
    """A run that a sensor asked for did not succeed; the message names the step and its error."""


@dataclass(frozen=True)
class ExecutedRun:
    """One finished run: who asked for it and why."""

    run_id: str
    job: str
    sensor: str
    run_key: str
    partition: str | None
    tags: dict[str, str]
    seconds: float
    failed_checks: tuple[str, ...]


class Conductor:
    """Args:
    store: an opened store; its clock is the clock of every asset and sensor.
    instance: the Dagster instance that keeps runs and materialisations.
    on_run: called with each finished run.
    """

    def __init__(self, store: Store, instance: DagsterInstance, on_run: Callable[[ExecutedRun], None]) -> None:
        logging.getLogger("dagster").setLevel(logging.CRITICAL)
        self.store = store
        self.instance = instance
        self.definitions = build_definitions(store)
        self.repository = self.definitions.get_repository_def()
        self.runs: list[ExecutedRun] = []
        self._on_run = on_run
        self._cursors: dict[str, str] = {}

    def settle(self, world: Callable[[], int] = lambda: 0, rounds: int = 30) -> list[ExecutedRun]:
        """Evaluate all sensors, run what they ask for, let the world react, until a whole round does nothing.

        Args:
            world: what people and devices do between ticks; returns how much it did.

        Raises:
            RunFailedError: a run failed, or the loop still asks for work after `rounds` rounds.
        """
        first = len(self.runs)
        for _ in range(rounds):
            done = sum(self.tick(sensor) for sensor in self.sensors())
            if done + world() == 0:
                return self.runs[first:]
        raise RunFailedError(f"sensors still ask for work after {rounds} rounds: {[r.sensor for r in self.runs[-5:]]}")

    def sensors(self) -> list[SensorDefinition]:
        """The sensors that ask for runs (run-failure sensors need the daemon)."""
        return [s for s in self.repository.sensor_defs if not isinstance(s, RunStatusSensorDefinition)]

    def tick(self, sensor: SensorDefinition) -> int:
        """Evaluate one sensor once; returns how many runs it led to."""
        context = SensorEvaluationContext(  # build_sensor_context gives no instance_ref, which new partitions need
            instance_ref=self.instance.get_ref(),
            instance=self.instance,
            repository_def=self.repository,
            resources={"store": ResourceDefinition.hardcoded_resource(self.store)},
            sensor_name=sensor.name,
            cursor=self._cursors.get(sensor.name),
            last_tick_completion_time=None,
            last_run_key=None,
            repository_name=None,
        )
        with partition_loading_context(effective_dt=self.store.now(), dynamic_partitions_store=self.instance):
            result = sensor.evaluate_tick(context)
        for wanted in result.dynamic_partitions_requests or []:
            if isinstance(wanted, AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(wanted.partitions_def_name, wanted.partition_keys)
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        if result.cursor is not None:
            self._cursors[sensor.name] = result.cursor
        requests = [r for r in result.run_requests or [] if not self._ran_before(sensor.name, r)]
        for request in requests:
            self._execute(sensor, request)
        return len(requests)

    def _ran_before(self, sensor: str, request: RunRequest) -> bool:
        if request.run_key is None:
            return False
        tags = {RUN_KEY_TAG: request.run_key, SENSOR_TAG: sensor}
        return bool(self.instance.get_run_records(RunsFilter(tags=tags), limit=1))

    def _execute(self, sensor: SensorDefinition, request: RunRequest) -> None:
        job_name = request.job_name or str(sensor.job_name)
        tags = {**request.tags, SENSOR_TAG: sensor.name, RUN_KEY_TAG: request.run_key or ""}
        started = time.monotonic()
        result = self.repository.get_job(job_name).execute_in_process(
            instance=self.instance,
            partition_key=request.partition_key,
            asset_selection=request.asset_selection,
            run_config={**request.run_config, **QUIET_CONSOLE},
            tags=tags,
            raise_on_error=False,
        )
        run = ExecutedRun(
            run_id=result.run_id,
            job=job_name,
            sensor=sensor.name,
            run_key=request.run_key or "",
            partition=request.partition_key,
            tags=dict(request.tags),
            seconds=time.monotonic() - started,
            failed_checks=tuple(
                f"{e.asset_key.to_user_string()}:{e.check_name}"
                for e in result.get_asset_check_evaluations()
                if not e.passed
            ),
        )
        self.runs.append(run)
        self._on_run(run)
        if not result.success:
            raise RunFailedError(self._failure(run))

    def _failure(self, run: ExecutedRun) -> str:
        record = self.instance.get_run_by_id(run.run_id)
        status = record.status if record else DagsterRunStatus.FAILURE
        for entry in self.instance.all_logs(run.run_id):
            event = entry.dagster_event
            if event is not None and event.is_step_failure:
                error = event.step_failure_data.error
                cause = error.cause if error and error.cause else error
                message = cause.message.strip() if cause else "unknown error"
                return f"run {run.run_id} of {run.job} failed in {event.step_key}: {message}"
        return f"run {run.run_id} of {run.job} ended as {status.value}; failed checks: {list(run.failed_checks)}"


@contextmanager
def standalone(store: Store) -> Iterator[Conductor]:
    """A conductor over `store` whose runs and materialisations are kept in a temporary folder."""
    with DagsterInstance.local_temp(overrides={"telemetry": {"enabled": False}}) as instance:
        yield Conductor(store, instance, lambda run: None)
