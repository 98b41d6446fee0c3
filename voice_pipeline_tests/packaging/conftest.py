"""One home, made once: a snapshot dataset and a small model taken through export, int8, signing and publication."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.settings import load_settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline_tests.packaging.small_models import add_trained_model, write_dataset

DATASET = "ds-0123456789ab"
MODEL = "m-20261102-00000001"


@dataclass(frozen=True)
class PackagedHome:
    """`store` holds MODEL, packaged; `dataset_version` has train, dev or test clips of noise."""

    store: Store
    dataset_version: str
    manifest: BundleManifest


@pytest.fixture(scope="session")
def dataset_home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """A store with one dataset version of clips of noise, and a suite frozen from it."""
    root = tmp_path_factory.mktemp("packaging")
    store = Store.open(load_settings(root / "home"), ManualClock(datetime(2026, 11, 2, 9, tzinfo=UTC)))
    write_dataset(store, DATASET)
    return store, DATASET


@pytest.fixture(scope="session")
def packaged(dataset_home: tuple[Store, str]) -> PackagedHome:
    from voice_pipeline.packaging.bundle import build_bundle, publish
    from voice_pipeline.packaging.export import export
    from voice_pipeline.packaging.quantise import quantise

    store, dataset_version = dataset_home
    add_trained_model(store, MODEL, dataset_version)
    export(store, MODEL)
    quantise(store, MODEL)
    manifest = build_bundle(store, MODEL)
    publish(store, MODEL)
    return PackagedHome(store, dataset_version, manifest)
