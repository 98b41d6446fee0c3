"""Every entry point works on one home, with every component's telemetry off."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from voice_pipeline.settings import PROJECT_ROOT, QUIET, load_settings, prepare_environment


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*QUIET, "DAGSTER_HOME", "VOICE_PIPELINE_HOME", "DVC_SITE_CACHE_DIR"):
        monkeypatch.setenv(name, "before")  # so that what the entry point sets is undone afterwards


def test_the_dagster_instance_lies_in_the_home(tmp_path: Path, environment: None) -> None:
    prepare_environment(load_settings(tmp_path / "home"))
    assert os.environ["DAGSTER_HOME"] == str(tmp_path / "home" / "dagster")
    assert (tmp_path / "home" / "dagster" / "dagster.yaml").read_text() == (PROJECT_ROOT / "dagster.yaml").read_text()


def test_telemetry_of_every_component_is_off(tmp_path: Path, environment: None) -> None:
    prepare_environment(load_settings(tmp_path / "home"))
    assert {name: os.environ[name] for name in QUIET} == QUIET
    assert yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())["telemetry"] == {"enabled": False}


def test_an_argument_wins_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOICE_PIPELINE_HOME", str(tmp_path / "from-environment"))
    assert load_settings().root == tmp_path / "from-environment"
    assert load_settings(tmp_path / "argument").root == tmp_path / "argument"


def test_the_home_of_dagsters_own_commands_is_the_one_their_instance_lies_in(
    tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VOICE_PIPELINE_HOME")
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "mine"
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    assert load_settings().root == tmp_path / ".voice_pipeline"  # no home lies there
    (home / "dagster").mkdir(parents=True)
    (home / "catalogue.db").touch()
    assert load_settings().root == home
    monkeypatch.setenv("VOICE_PIPELINE_HOME", str(tmp_path / "told"))
    assert load_settings().root == tmp_path / "told"
    monkeypatch.delenv("VOICE_PIPELINE_HOME")
    monkeypatch.setenv("DAGSTER_HOME", str(home / "my-own"))  # an instance that no entry point made
    assert load_settings().root == tmp_path / ".voice_pipeline"


def test_embedded_urls_lie_in_the_home_and_given_ones_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    assert load_settings(home).catalogue_url == f"sqlite:///{home / 'catalogue.db'}"
    monkeypatch.setenv("VOICE_PIPELINE_DATABASE_URL", "postgresql://db/voice")
    monkeypatch.setenv("VOICE_PIPELINE_BLOB_URL", "s3://bucket/voice")
    assert load_settings(home).catalogue_url == "postgresql://db/voice"
    assert load_settings(home).blobs == "s3://bucket/voice"


def test_nothing_is_made_by_reading_settings(tmp_path: Path) -> None:
    load_settings(tmp_path / "home")
    assert list(tmp_path.iterdir()) == []
