"""The Dagster shell: sensors ask once a cause, the training job's own assets and checks run for real."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetKey,
    DagsterInstance,
    Definitions,
    SensorDefinition,
    SensorEvaluationContext,
    asset,
    load_asset_checks_from_modules,
    load_assets_from_modules,
    materialize,
)
from sqlalchemy import select

from voice_pipeline.partitions import model_version
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import models
from voice_pipeline.training import assets, checks, stages
from voice_pipeline.training.planning import request_retrain
from voice_pipeline.training.registry import standing
from voice_pipeline.training.sensors import jobs, registry_sensor, retrain_decision_sensor, sensors
from voice_pipeline_tests.training.catalogue import add_dataset, move

Tick = Callable[[SensorDefinition, Store], Any]
SHELL = [*load_assets_from_modules([assets]), *load_asset_checks_from_modules([checks])]


def packaged(name: str):  # type: ignore[no-untyped-def]
    """Stands for an asset of the packaging stage, which the training job also runs."""

    @asset(name=name, partitions_def=model_version)
    def stub() -> None:
        return None

    return stub


@pytest.fixture(scope="module")
def tick(tmp_path_factory: pytest.TempPathFactory) -> Tick:
    """Evaluates a sensor as the daemon does; the instance is stored, for an ephemeral one resolves no new partition."""
    instance = DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster")))
    stubs = [packaged(name) for name in ("onnx_model", "quantized_model", "signed_bundle")]

    def evaluate(sensor: SensorDefinition, store: Store) -> Any:
        definitions = Definitions(assets=[*SHELL, *stubs], jobs=jobs, sensors=sensors, resources={"store": store})
        context = SensorEvaluationContext(
            instance_ref=instance.get_ref(),
            instance=instance,
            repository_def=definitions.get_repository_def(),
            resources={"store": store},
            sensor_name=sensor.name,
            cursor=None,
            last_tick_completion_time=None,
            last_run_key=None,
            repository_name=None,
        )
        return sensor.evaluate_tick(context)

    return evaluate


def test_a_new_dataset_fires_one_run_for_its_model_however_often_it_ticks(labelled: Store, tick: Tick) -> None:
    first, second = tick(retrain_decision_sensor, labelled), tick(retrain_decision_sensor, labelled)
    (request,) = first.run_requests
    planned = labelled.database.scalar(select(models.c.model_version))
    assert request.partition_key == planned
    assert first.dynamic_partitions_requests[0].partition_keys == [planned]
    assert request.tags["cause"].startswith("dataset ds-")
    assert [r.run_key for r in second.run_requests] == [request.run_key]


def test_nothing_to_do_is_said_not_silent(store: Store, tick: Tick) -> None:
    assert tick(retrain_decision_sensor, store).skip_message == "nothing new to train on"
    add_dataset(store, 1, clips=3)
    assert tick(retrain_decision_sensor, store).skip_message.startswith("3 new clips to learn from, ")


def test_each_request_has_its_own_run_key(labelled: Store, tick: Tick) -> None:
    tick(retrain_decision_sensor, labelled)
    request_retrain(labelled, "refresh", actor="ann")
    keys = [request.run_key for request in tick(retrain_decision_sensor, labelled).run_requests]
    assert len(set(keys)) == 2


def test_the_registry_is_mirrored_again_when_the_same_pair_returns(store: Store, tick: Tick) -> None:
    assert tick(registry_sensor, store).skip_message == "no model yet"
    move(store, "m-20261102-aaaaaaaa", ReleaseState.CANDIDATE, ReleaseState.PRODUCTION)
    live_alone = tick(registry_sensor, store).run_requests[0].run_key
    move(store, "m-20261102-bbbbbbbb", ReleaseState.CANDIDATE)
    both = tick(registry_sensor, store).run_requests[0].run_key
    move(store, "m-20261102-bbbbbbbb", ReleaseState.ROLLED_BACK)
    back = tick(registry_sensor, store).run_requests[0].run_key
    assert len({live_alone, both, back}) == 3
    assert tick(registry_sensor, store).run_requests[0].run_key == back


def test_plan_weights_confidence_report_and_card_come_out_of_one_run(labelled: Store, tick: Tick) -> None:
    instance = DagsterInstance.ephemeral()
    (request,) = tick(retrain_decision_sensor, labelled).run_requests
    instance.add_dynamic_partitions(str(model_version.name), [request.partition_key])
    result = materialize(
        SHELL,
        instance=instance,
        partition_key=request.partition_key,
        resources={"store": labelled},
        raise_on_error=True,
    )
    assert result.success
    evaluations = {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}
    assert set(evaluations) == {
        "data_may_be_used",
        "machine_is_ready",
        "weights_are_sound",
        "network_learnt",
        "confidence_is_calibrated",
        "slices_have_speakers",
        "confidence_holds_on_suite",
    }
    for name in ("data_may_be_used", "machine_is_ready", "weights_are_sound"):
        assert evaluations[name].passed
    metadata = {
        event.asset_key.to_user_string(): event.step_materialization_data.materialization.metadata
        for event in result.get_asset_materialization_events()
    }
    assert "data:image/png;base64," in metadata["acoustic_model"]["learning_curve"].value
    _evaluation_is_shown(metadata["evaluation_report"])
    assert metadata["model_card"]["card"].value.count("data:image/png;base64,") == 2
    _everything_is_kept(labelled, request.partition_key)
    _mlflow_has_it(labelled)
    again = materialize(SHELL, instance=instance, partition_key=request.partition_key, resources={"store": labelled})
    assert again.success
    assert len(_runs(labelled)) == 1
    assert AssetKey("model_card") in {event.asset_key for event in again.get_asset_materialization_events()}


def _evaluation_is_shown(metadata: Mapping[str, Any]) -> None:
    assert "| overall ⚠ |" in metadata["slices"].value  # four clips of two speakers: too little, and said so
    assert metadata["slices_too_small"].value > 0
    assert metadata["against_live"].value == "no model is live yet, so there is nothing to compare with."
    assert (metadata["confidence_suite"].value, metadata["confidence_clips"].value) == ("core-v1", 4)
    assert metadata["latency_by_device_class"].value.count("| host | host (float), a stand-in") == 4
    for chart in ("wer_by_slice", "error_mix"):
        assert "data:image/png;base64," in metadata[chart].value


def _everything_is_kept(store: Store, version: str) -> None:
    row = store.database.row(select(models).where(models.c.model_version == version))
    assert row is not None
    assert row["state"] == "trained"
    assert row["mlflow_run_id"]
    assert row["confidence_sha256"]
    assert row["metrics"]["epochs"] == 2
    folder: Path = store.settings.models / version
    card = json.loads((folder / "model_card.json").read_text())
    assert card["data"]["consent_scopes"]["train"] == 24
    assert card["data"]["clips"]["test"] == 4
    assert (folder / "charts" / "wer_by_slice.png").read_bytes().startswith(b"\x89PNG")
    assert card["confidence"]["fitted_on"] == "dev"
    assert {"suite": "core-v1", "clips": 4, "speakers": 2}.items() <= card["confidence_held_out"].items()
    text = (folder / "model_card.md").read_text()
    assert "### On suite core-v1, held out" in text
    assert "speaker-" not in text
    assert "call mary" not in text


def _mlflow_has_it(store: Store) -> None:
    """Every stage told it, in the same words that a later look would compare."""
    (run,) = _runs(store)
    assert {"decoder_sha256", "confidence_sha256", "report_sha256", "card_sha256"} <= run.data.tags.keys()
    assert run.data.metrics["confidence_held_out/clips"] == 4
    assert run.data.tags["confidence_held_out.suite"] == "core-v1"
    assert run.data.tags["env.threads"] == "1"
    assert run.data.tags["env.bfloat16"] in ("yes", "no")
    assert stages.mirror(store) == str(standing(store))


def _runs(store: Store) -> list[Any]:
    from voice_pipeline.training.tracking import client_of

    return list(client_of(store).search_runs(["1"]))
