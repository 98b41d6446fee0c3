"""A publisher with two signed bundles, and ways to look at and to kill what it does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from voice_pipeline.packaging import metadata_chain, repository, rotation, signing
from voice_pipeline.packaging.repository import Publication, UpdateRepository
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.settings import Settings, load_settings
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline_tests.packaging.small_models import sign_small_bundle

NEW = "m-20261102-000000b2"
OLD = "m-20261102-000000b1"


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, dict[str, BundleManifest]]:
    settings = load_settings(tmp_path_factory.mktemp("repository"))
    return settings, {name: sign_small_bundle(settings, name, seed) for seed, name in enumerate((OLD, NEW))}


@pytest.fixture
def home(signed: tuple[Settings, dict[str, BundleManifest]], tmp_path: Path) -> Settings:
    """A copy of the signed bundles and their keys, with no repository yet."""
    shutil.copytree(signed[0].root, tmp_path / "home")
    return load_settings(tmp_path / "home")


def offer(settings: Settings, at: datetime, manifests: dict[str, BundleManifest], name: str) -> Publication:
    return UpdateRepository(settings, at).publish(settings.bundles / name, manifests[name])


def in_force(repository: UpdateRepository) -> tuple[Metadata[Snapshot], Metadata[Targets]]:
    """Follow the chain of trust as a client does, checking every signature."""
    versions = [int(path.name.split(".")[0]) for path in repository.metadata.glob("*.root.json")]
    root = Metadata[Root].from_file(str(repository.metadata / f"{max(versions)}.root.json")).signed
    timestamp = Metadata[Timestamp].from_file(str(repository.metadata / "timestamp.json"))
    root.verify_delegate("timestamp", timestamp.signed_bytes, timestamp.signatures)
    version = timestamp.signed.snapshot_meta.version
    snapshot = Metadata[Snapshot].from_file(str(repository.metadata / f"{version}.snapshot.json"))
    root.verify_delegate("snapshot", snapshot.signed_bytes, snapshot.signatures)
    version = snapshot.signed.meta["targets.json"].version
    targets = Metadata[Targets].from_file(str(repository.metadata / f"{version}.targets.json"))
    root.verify_delegate("targets", targets.signed_bytes, targets.signatures)
    return snapshot, targets


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def killed_after(writes: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The publisher's process dies instead of doing write number `writes` + 1."""
    left = [writes]

    def dying(path: Path, data: bytes) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        write_atomically(path, data)

    with monkeypatch.context() as patched:
        for module in (metadata_chain, repository, signing, rotation):
            patched.setattr(module, "write_atomically", dying)
        yield
