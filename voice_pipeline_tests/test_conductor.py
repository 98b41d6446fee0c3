"""The conductor does what the daemon does: each cause runs once, a failure is named, the world gets its turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetSelection,
    DagsterInstance,
    Definitions,
    DynamicPartitionsDefinition,
    RunRequest,
    SensorResult,
    asset,
    define_asset_job,
    in_process_executor,
    sensor,
)

import voice_pipeline.conductor as conductor_module
from voice_pipeline.conductor import Conductor, ExecutedRun, RunFailedError
from voice_pipeline.store.store import Store


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp() as made:
        yield made


def conduct(store: Store, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, *parts: Any) -> Conductor:
    assets, jobs, sensors = parts
    definitions = Definitions(assets=assets, jobs=jobs, sensors=sensors, executor=in_process_executor)
    monkeypatch.setattr(conductor_module, "build_definitions", lambda _store: definitions)
    return Conductor(store, instance, lambda run: None)


def test_one_cause_runs_once_however_often_its_sensor_asks(
    store: Store, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    @asset
    def thing() -> None:
        made.append(1)

    job = define_asset_job("thing_job", AssetSelection.assets("thing"))

    @sensor(job=job)
    def wants_thing() -> Iterator[RunRequest]:
        yield RunRequest(run_key="the same cause")

    runs = conduct(store, instance, monkeypatch, [thing], [job], [wants_thing]).settle()
    assert len(runs) == len(made) == 1
    again = conduct(store, instance, monkeypatch, [thing], [job], [wants_thing]).settle()
    assert again == []


def test_a_partition_added_by_a_sensor_can_be_run_in_the_same_tick(
    store: Store, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    partitions = DynamicPartitionsDefinition(name="version")

    @asset(partitions_def=partitions)
    def thing() -> None: ...

    job = define_asset_job("thing_job", AssetSelection.assets("thing"), partitions_def=partitions)

    @sensor(job=job)
    def wants_new_version() -> SensorResult:
        return SensorResult(
            run_requests=[RunRequest(run_key="v1", partition_key="v1")],
            dynamic_partitions_requests=[partitions.build_add_request(["v1"])],
        )

    (run,) = conduct(store, instance, monkeypatch, [thing], [job], [wants_new_version]).settle()
    assert run.partition == "v1"
    assert instance.get_dynamic_partitions("version") == ["v1"]


def test_a_failed_run_is_named_with_its_step_and_error(
    store: Store, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asset
    def thing() -> None:
        raise ValueError("clip 17 has no audio")

    job = define_asset_job("thing_job", AssetSelection.assets("thing"))

    @sensor(job=job)
    def wants_thing() -> Iterator[RunRequest]:
        yield RunRequest(run_key="cause")

    with pytest.raises(RunFailedError, match=r"thing_job failed in thing: .*clip 17 has no audio"):
        conduct(store, instance, monkeypatch, [thing], [job], [wants_thing]).settle()


def test_a_loop_that_never_settles_is_stopped(
    store: Store, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    conductor = conduct(store, instance, monkeypatch, [], [], [])
    turns: list[int] = []
    with pytest.raises(RunFailedError, match="still ask for work after 4 rounds"):
        conductor.settle(world=lambda: turns.append(1) or 1, rounds=4)
    assert len(turns) == 4


def test_every_finished_run_is_reported(
    store: Store, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asset
    def thing() -> None: ...

    job = define_asset_job("thing_job", AssetSelection.assets("thing"))

    @sensor(job=job)
    def wants_thing() -> Iterator[RunRequest]:
        yield RunRequest(run_key="cause", tags={"incident": "inc-1"})

    conductor = conduct(store, instance, monkeypatch, [thing], [job], [wants_thing])
    seen: list[ExecutedRun] = []
    conductor._on_run = seen.append
    conductor.settle()
    assert [(run.job, run.sensor, run.tags["incident"]) for run in seen] == [("thing_job", "wants_thing", "inc-1")]
    assert instance.get_run_by_id(seen[0].run_id).tags["dagster/run_key"] == "cause"


def test_what_a_sensor_reports_is_kept_with_its_asset(
    store: Store, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asset
    def thing() -> None: ...

    job = define_asset_job("thing_job", AssetSelection.assets("thing"))

    @sensor(job=job)
    def tells() -> SensorResult:
        return SensorResult(asset_events=[AssetMaterialization("thing", metadata={"state": "rolled_back"})])

    conduct(store, instance, monkeypatch, [thing], [job], [tells]).settle()
    told = instance.get_latest_materialization_event(AssetKey("thing"))
    assert told is not None
    assert told.asset_materialization.metadata["state"].value == "rolled_back"
