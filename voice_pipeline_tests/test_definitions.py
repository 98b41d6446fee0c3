"""The graph that people see in the UI, held against a snapshot: an accidental change shows in review."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml
from dagster import AssetSelection, DefaultSensorStatus, RunStatusSensorDefinition
from syrupy.assertion import SnapshotAssertion

from voice_pipeline.definitions import STAGES, build_definitions
from voice_pipeline.settings import PROJECT_ROOT


def graph() -> dict[str, Any]:
    repository = build_definitions().get_repository_def()
    nodes = repository.asset_graph
    return {
        "assets": {
            key.to_user_string(): {
                "group": nodes.get(key).group_name,
                "deps": sorted(parent.to_user_string() for parent in nodes.get(key).parent_keys),
                "partitions": str(nodes.get(key).partitions_def.name if nodes.get(key).partitions_def else None)
                if getattr(nodes.get(key).partitions_def, "name", None)
                else type(nodes.get(key).partitions_def).__name__,
            }
            for key in sorted(nodes.get_all_asset_keys())
        },
        "checks": sorted(f"{k.asset_key.to_user_string()}:{k.name}" for k in nodes.asset_check_keys),
        "jobs": sorted(name for name in repository.job_names if not name.startswith("__")),
        "sensors": sorted(sensor.name for sensor in repository.sensor_defs),
    }


def test_the_graph_is_the_one_that_was_reviewed(snapshot: SnapshotAssertion) -> None:
    assert graph() == snapshot


def test_every_asset_belongs_to_a_stage_and_has_an_owner_and_a_description() -> None:
    nodes = build_definitions().get_repository_def().asset_graph
    for key in nodes.get_all_asset_keys():
        node = nodes.get(key)
        assert node.group_name in STAGES, key
        assert node.owners, f"{key} has no owner"
        assert node.description, f"{key} has no description"


def test_every_sensor_starts_running() -> None:
    sensors = build_definitions().get_repository_def().sensor_defs
    assert sensors
    for sensor in sensors:
        assert sensor.default_status is DefaultSensorStatus.RUNNING, sensor.name


def test_every_asset_is_in_a_job_that_a_sensor_fires() -> None:
    repository = build_definitions().get_repository_def()
    fired = set()
    for sensor in repository.sensor_defs:
        if isinstance(sensor, RunStatusSensorDefinition):
            continue
        for target in sensor.targets:
            job = repository.get_job(target.job_name)
            fired |= set(job.asset_layer.executable_asset_keys)
    everything = AssetSelection.all(include_sources=False).resolve(repository.asset_graph)
    assert everything - fired == set()


def test_daily_assets_can_be_backfilled_in_one_run() -> None:
    nodes = build_definitions().get_repository_def().asset_graph
    daily = [
        nodes.get(k)
        for k in nodes.get_all_asset_keys()
        if type(nodes.get(k).partitions_def).__name__ == "DailyPartitionsDefinition"
    ]
    assert daily
    for node in daily:
        assert node.backfill_policy is not None, node.key
        assert node.backfill_policy.max_partitions_per_run is None, node.key


def test_workspace_and_pyproject_name_the_same_module() -> None:
    workspace = yaml.safe_load((PROJECT_ROOT / "workspace.yaml").read_text())["load_from"][0]["python_module"]
    tool = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["tool"]["dagster"]
    assert workspace["module_name"] == tool["module_name"]
    assert workspace["location_name"] == tool["code_location_name"]


def test_loading_the_code_location_imports_nothing_heavy() -> None:
    code = (
        "import sys, voice_pipeline.definitions;"
        "print([m for m in ('torch', 'feast', 'mlflow', 'great_expectations', 'onnxruntime', 'matplotlib', 'pandas')"
        " if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert result.stdout.strip() == "[]"


def test_dagster_itself_finds_the_definitions_valid(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "dagster"), "definitions", "validate", "-w", "workspace.yaml"]
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path), "VOICE_PIPELINE_HOME": str(tmp_path / "home")}
    found = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    assert not (tmp_path / "home").exists()  # loading opens nothing


def test_assets_can_be_selected_by_expression() -> None:
    """Known issue, 2026-11: stable hydra-core (of DVC) pulls in an ANTLR that Dagster's selection cannot use."""
    nodes = build_definitions().get_repository_def().asset_graph
    chosen = AssetSelection.from_string('group:"capture" or key:"clip_features"').resolve(nodes)
    assert {key.to_user_string() for key in chosen} == {
        "captured_clips", "quarantined_clips", "clip_catalog", "clip_features",
    }  # fmt: skip
