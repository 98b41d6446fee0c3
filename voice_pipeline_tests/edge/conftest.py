"""A home with V1 and V2 signed and published, made once, copied for each test that asks for it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.settings import PROJECT_ROOT, load_settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline_tests.fleet.field import V1, V2, move, publish

LIVE = (ReleaseState.CANDIDATE, ReleaseState.PRODUCTION)


@dataclass(frozen=True)
class Published:
    """A home to be copied; `digests` by model version."""

    home: Path
    digests: dict[str, str]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    home = tmp_path_factory.mktemp("published") / "home"
    store = Store.open(load_settings(home), ManualClock(datetime(2026, 11, 2, 9, tzinfo=UTC)))
    digests = {model: publish(store, model, seed) for seed, model in enumerate((V1, V2))}
    store.database.engine.dispose()
    return Published(home, digests)


@pytest.fixture
def released(
    published: Published, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> tuple[Store, dict[str, str]]:
    """That home with V1 live and a policy folder of its own, and the digests of its models."""
    home = tmp_path / "released"
    shutil.copytree(published.home, home)
    shutil.copytree(PROJECT_ROOT / "policy", tmp_path / "policy")
    monkeypatch.setenv("VOICE_PIPELINE_POLICY_DIR", str(tmp_path / "policy"))
    store = Store.open(load_settings(home), clock)
    with store.database.write() as connection:  # the copy's bundles lie in the copy
        connection.exec_driver_sql("UPDATE bundles SET uri = replace(uri, ?, ?)", (str(published.home), str(home)))
    move(store, V1, published.digests[V1], *LIVE)
    return store, published.digests
