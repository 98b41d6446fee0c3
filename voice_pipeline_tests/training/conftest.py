"""A home with a dataset, a suite and a training frame, made by the real stages; built once, copied for each test."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from voice_pipeline.settings import PROJECT_ROOT, Settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store

START = datetime(2026, 11, 2, 9, tzinfo=UTC)

POLICY = """
profiles:
  quick:
    scratch: {preset: micro, max_epochs: 2, batch_size: 8, join_share: 0.0}
    warm_start: {preset: micro, max_epochs: 1, batch_size: 8, join_share: 0.0}
min_new_clips: 5
preflight: {disk_mb: 1, memory_mb: 1, seconds: 600}
"""


@pytest.fixture(scope="session")
def labelled_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from voice_pipeline.dataset.snapshot import snapshot
    from voice_pipeline.dataset.suites import freeze_suites
    from voice_pipeline.features.frames import build_frame
    from voice_pipeline.features.measure import measure_day
    from voice_pipeline.features.publish import publish
    from voice_pipeline_tests.store.labelled_home import TEST_SCOPES, add_batch

    root = tmp_path_factory.mktemp("labelled")
    (root / "policy").mkdir()
    (root / "policy" / "retrain.yaml").write_text(POLICY)
    (root / "policy" / "labeling.yaml").write_text("alphabet: lowercase\n")
    shutil.copy(PROJECT_ROOT / "policy" / "release.yaml", root / "policy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(root / "dvc-site-cache"))
        store = Store.open(settings_of(root), ManualClock(START))
        speakers = [f"speaker-{n}" for n in range(24)]
        add_batch(store, "batch-20261102-001", speakers, clips_each=1, text="call mary", seconds=1.0)
        add_batch(store, "batch-20261102-002", ["t1", "t2"], scopes=TEST_SCOPES, text="call mary", seconds=1.0)
        made = snapshot(store)
        freeze_suites(store, made.dataset_version)
        measure_day(store, START.date().isoformat())
        publish(store)
        build_frame(store, made.dataset_version)
    store.database.engine.dispose()
    return root


def settings_of(root: Path) -> Settings:
    return Settings(home=root / "home", policy_dir=root / "policy", training_profile="quick")


@pytest.fixture
def labelled(labelled_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store over a copy of the labelled home; subprocesses find it too."""
    root = tmp_path / "labelled"
    shutil.copytree(labelled_home, root)
    monkeypatch.setenv("VOICE_PIPELINE_HOME", str(root / "home"))
    monkeypatch.setenv("VOICE_PIPELINE_POLICY_DIR", str(root / "policy"))
    monkeypatch.setenv("VOICE_PIPELINE_TRAINING_PROFILE", "quick")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc-site-cache"))
    return Store.open(settings_of(root), ManualClock(START))
