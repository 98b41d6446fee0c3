"""A publisher whose offline keys lie elsewhere, and ways to look at what it offers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from voice_pipeline.packaging.bundle import publish
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.settings import Settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import bundles
from voice_pipeline_tests.packaging.publisher import OLD, in_force, signed

__all__ = ["signed"]


@pytest.fixture
def stick(store: Store, clock: ManualClock, signed: tuple[Settings, dict[str, BundleManifest]]) -> Path:
    """A folder elsewhere with the offline keys of the store's home; OLD is on offer there, NEW is catalogued only."""
    source, manifests = signed
    for name in ("keys", "bundles"):
        shutil.copytree(source.root / name, store.settings.root / name, dirs_exist_ok=True)
    with store.database.write() as connection:
        for manifest in manifests.values():
            row = {"bundle_digest": manifest.digest, "model_version": manifest.model_version, "size": 1}
            uri = str(store.settings.bundles / manifest.model_version)
            content = manifest.model_dump(mode="json")
            connection.execute(insert(bundles).values(**row, uri=uri, manifest=content, created_at="2026-11-02"))
    assert publish(store, OLD).in_force
    elsewhere = store.settings.root.with_name("stick")
    shutil.move(store.settings.keys / "offline", elsewhere)
    return elsewhere


def repository(store: Store) -> UpdateRepository:
    return UpdateRepository(store.settings, store.now())


def published_at(store: Store, model_version: str) -> str | None:
    value: str | None = store.database.scalar(
        select(bundles.c.published_at).where(bundles.c.model_version == model_version)
    )
    return value


def on_offer(store: Store) -> set[str]:
    return {name.removesuffix(".tar.xz") for name in in_force(repository(store))[1].signed.targets}
