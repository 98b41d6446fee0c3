"""The quick story on synthesised voices, through the command line, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.story, pytest.mark.timeout(1800)]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "voice_pipeline.cli", *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture
def home(story_home: Path) -> Path:
    return story_home


@pytest.fixture
def report(home: Path) -> dict[str, Any]:
    return json.loads((home / "reports" / "demo.json").read_text())


def test_v1_was_live_and_is_superseded_v2_is_live_v3_was_rolled_back(report: dict[str, Any]) -> None:
    assert [model["state"] for model in report["models"]] == ["superseded", "production", "rolled_back"]


def test_v2_went_through_every_stage_in_order(report: dict[str, Any]) -> None:
    v2 = report["models"][1]["model_version"]
    steps = [step["to"] for step in report["transitions"] if step["model_version"] == v2]
    assert steps == ["candidate", "gated", "shadow", "canary_5", "canary_25", "canary_50", "production"]
    assert all(step["reason"] for step in report["transitions"])


def test_v3_reached_devices_but_never_half_of_them(report: dict[str, Any]) -> None:
    v3 = report["models"][2]["model_version"]
    steps = [step["to"] for step in report["transitions"] if step["model_version"] == v3]
    assert "canary_5" in steps
    assert "canary_50" not in steps
    assert steps[-1] == "rolled_back"


def test_drift_was_found_by_its_figures_and_fired_the_training_of_v2(report: dict[str, Any]) -> None:
    (incident,) = [each for each in report["drift"] if each["kind"] == "input_drift"]
    assert incident["figures"]
    assert [run["model_version"] for run in incident["fired_runs"]] == [report["models"][1]["model_version"]]
    assert incident["fired_runs"][0]["sensor"] == "retrain_decision_sensor"


def test_every_model_carries_its_figures(report: dict[str, Any]) -> None:
    for model in report["models"]:
        assert model["dataset_version"].startswith("ds-")
        assert 0 < model["float"]["wer"]["value"] < 1
        assert 0 < model["int8"]["latency_p50_ms"] <= model["int8"]["latency_p95_ms"]
        assert model["bundle_bytes"] > 10_000
        assert "condition:noise_10db" in model["int8"]["slices"]
        assert {verdict["outcome"] for verdict in model["verdicts"].values()} == {"pass"}
        assert all(len(verdict["digest"]) == 64 for verdict in model["verdicts"].values())


def test_the_new_dataset_and_the_parent_are_recorded(report: dict[str, Any]) -> None:
    v1, v2, v3 = report["models"]
    assert v2["dataset_version"] != v1["dataset_version"]
    assert v2["parent_model_version"] == v1["model_version"]
    assert v3["parent_model_version"] == v2["model_version"]


def test_one_lookup_tells_everything_about_the_live_model(home: Path, report: dict[str, Any]) -> None:
    version = report["models"][1]["model_version"]
    found = command("lineage", version, "--json", "--home", str(home))
    answer = json.loads(found.stdout)
    assert answer["dataset_version"] == report["models"][1]["dataset_version"]
    assert sum(answer["clips"].values()) == len(answer["clip_ids"]) > 100
    assert answer["consent_ids"]
    assert answer["devices"]
    assert {verdict["bundle_digest"] for verdict in answer["verdicts"]} == {answer["bundle_digest"]}


def test_the_ledger_of_the_told_story_verifies(home: Path, report: dict[str, Any]) -> None:
    verified = command("release", "verify", "--home", str(home))
    assert verified.stdout.startswith(str(report["ledger_lines"]))


def test_the_live_bundle_verifies_and_a_changed_byte_is_noticed(home: Path, report: dict[str, Any]) -> None:
    bundle = home / "bundles" / report["models"][1]["model_version"]
    assert command("bundle", "verify", str(bundle), "--home", str(home)).returncode == 0
    model = bundle / "model.onnx"
    original = model.read_bytes()
    model.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    try:
        refused = command("bundle", "verify", str(bundle), "--home", str(home))
        assert refused.returncode == 1
        assert "model.onnx" in refused.stderr
    finally:
        model.write_bytes(original)


def test_an_old_dataset_version_comes_back_beside_the_current_one(home: Path, report: dict[str, Any]) -> None:
    old, new = (model["dataset_version"] for model in report["models"][:2])
    folders = [command("dataset", "checkout", version, "--home", str(home)).stdout.strip() for version in (old, new)]
    assert folders[0] != folders[1]
    assert all((Path(folder) / "manifest.parquet").exists() for folder in folders)


def test_a_demo_home_runs_in_the_dagster_instance_of_that_home(home: Path, report: dict[str, Any]) -> None:
    code = (
        "from dagster import DagsterInstance\n"
        "with DagsterInstance.get() as i:\n"
        "    print(i.get_runs_count(), len(i.get_dynamic_partitions('model_version')))"
    )
    environment = {**os.environ, "DAGSTER_HOME": str(home / "dagster")}
    counted = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    trained = [run for run in report["runs"] if run["job"] == "training_job"]  # a model that gates rejected counts too
    assert counted.stdout.split() == [str(len(report["runs"])), str(len(trained))]


def test_an_erased_person_is_named_in_lineage_and_unreadable_in_every_dataset_version(
    home: Path, report: dict[str, Any], tmp_path: Path
) -> None:
    import shutil
    import sqlite3

    copy = tmp_path / "home"
    shutil.copytree(home, copy)
    v1, v2 = (model["model_version"] for model in report["models"][:2])
    dataset = report["models"][0]["dataset_version"]
    with sqlite3.connect(copy / "catalogue.db") as catalogue:
        train = "SELECT subject_token, count(*) FROM dataset_clips WHERE dataset_version=? AND split='train' GROUP BY 1"
        token, clips = catalogue.execute(train, (dataset,)).fetchone()
    erased = command("capture", "erase", token, "test", "--home", str(copy))
    assert {v1, v2} <= set(json.loads(erased.stdout)["model_versions"])
    found = json.loads(command("lineage", v1, "--json", "--home", str(copy)).stdout)
    assert found["erased_clips"] == clips
    assert readable_clips(copy, dataset, token) == 0
    assert readable_clips(home, dataset, token) == clips  # the same question finds them where nobody erased them


def readable_clips(home: Path, dataset_version: str, token: str) -> int:
    """How many of a person's clips can still be decrypted out of a dataset version."""
    from voice_pipeline.settings import load_settings
    from voice_pipeline.store.manifest import manifest_rows, read_audio
    from voice_pipeline.store.store import Store

    store = Store.open(load_settings(home))
    rows = manifest_rows(store, dataset_version)
    return sum(row.speaker == token for row, _flac in read_audio(store, rows))
