"""A home with one signed bundle, published, catalogued and, where asked for, live: what app builds are made from."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.settings import Settings, load_settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline_tests.packaging.small_models import searching_decoder, sign_small_bundle
from voice_pipeline_tests.packaging.small_releases import TO_PRODUCTION, catalogue, release

MODEL = "m-20261102-00000001"


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory, module_clock: ManualClock) -> tuple[Settings, BundleManifest]:
    """A signed bundle with a search, and the update repository that devices start from."""
    settings = load_settings(tmp_path_factory.mktemp("publisher"))
    manifest = sign_small_bundle(settings, MODEL, 0, decoder=searching_decoder())
    UpdateRepository(settings, module_clock.now()).publish(settings.bundles / MODEL, manifest)
    return settings, manifest


@pytest.fixture(scope="module")
def module_clock() -> ManualClock:
    return ManualClock(datetime(2026, 11, 2, 9, tzinfo=UTC))


@pytest.fixture
def manifest(publisher: tuple[Settings, BundleManifest]) -> BundleManifest:
    return publisher[1]


@pytest.fixture
def home(publisher: tuple[Settings, BundleManifest], tmp_path: Path, clock: ManualClock) -> Store:
    """A home with the bundle in its catalogue and no release."""
    shutil.copytree(publisher[0].root, tmp_path / "home")
    store = Store.open(load_settings(tmp_path / "home"), clock)
    catalogue(store, publisher[1])
    return store


@pytest.fixture
def live(home: Store, manifest: BundleManifest) -> Store:
    """The home with the bundle in production."""
    release(home, manifest, *TO_PRODUCTION)
    return home


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def damaged(data: bytes) -> bytes:
    """One bit in the middle is another."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def bundle_of(home: Store) -> dict[str, bytes]:
    """The bundle of MODEL and its signature, as they lie in the home."""
    everything = contents(home.settings.bundles)
    return {name: data for name, data in everything.items() if name.startswith(MODEL)}
