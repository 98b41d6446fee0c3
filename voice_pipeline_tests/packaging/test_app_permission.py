"""Only what was live and was not taken back goes into an app, whatever happens meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import update

from voice_pipeline.packaging.app_build import export_for_app
from voice_pipeline.packaging.errors import AppExportError
from voice_pipeline.packaging.platforms import EXPORTED, AppPlatform
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.schema.release import ReleaseState as S
from voice_pipeline.store.errors import LedgerBrokenError
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import ledger
from voice_pipeline_tests.packaging.app_publisher import (
    MODEL,
    home,
    live,
    manifest,
    module_clock,
    publisher,
)
from voice_pipeline_tests.packaging.small_releases import TO_PRODUCTION, release

__all__ = ["home", "live", "manifest", "module_clock", "publisher"]

NEVER_LIVE = [
    (),
    ("candidate",),
    ("candidate", "gated", "shadow", "canary_5", "canary_25", "canary_50"),
    ("candidate", "gated", "shadow", "held"),
]
TAKEN_BACK = [
    ("candidate", "rejected"),
    ("candidate", "gated", "shadow", "canary_5", "rolled_back"),
    (*TO_PRODUCTION, "rolled_back"),
    (*TO_PRODUCTION, "superseded", "production", "rolled_back"),
]


@pytest.mark.parametrize("states", NEVER_LIVE)
def test_a_model_that_was_never_live_is_in_no_app(
    home: Store, manifest: BundleManifest, tmp_path: Path, states: tuple[str, ...]
) -> None:
    release(home, manifest, *map(S, states))
    with pytest.raises(AppExportError, match=f"never live.*{states[-1] if states else 'no release'}"):
        export_for_app(home, MODEL, AppPlatform.DESKTOP, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("states", TAKEN_BACK)
def test_a_model_that_was_taken_back_is_in_no_app_and_the_reason_is_told(
    home: Store, manifest: BundleManifest, tmp_path: Path, states: tuple[str, ...]
) -> None:
    release(home, manifest, *map(S, states), reason="slow on phones")
    with pytest.raises(AppExportError, match=f"{MODEL}-r1 was {states[-1]} .slow on phones."):
        export_for_app(home, MODEL, AppPlatform.DESKTOP, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_last_decided_release_counts(home: Store, manifest: BundleManifest, tmp_path: Path) -> None:
    release(home, manifest, *TO_PRODUCTION, S.SUPERSEDED, number=1)
    release(home, manifest, S.CANDIDATE, S.GATED, number=2)
    export_for_app(home, MODEL, AppPlatform.DESKTOP, tmp_path / "formerly live")
    release(home, manifest, S.REJECTED, number=2)
    with pytest.raises(AppExportError, match="-r2 was rejected"):
        export_for_app(home, MODEL, AppPlatform.DESKTOP, tmp_path / "out")
    release(home, manifest, *TO_PRODUCTION, number=3)
    export_for_app(home, MODEL, AppPlatform.DESKTOP, tmp_path / "live again")


def test_another_bundle_of_that_version_being_live_does_not_count(
    home: Store, manifest: BundleManifest, tmp_path: Path
) -> None:
    release(home, manifest.model_copy(update={"owner": "team:else"}), *TO_PRODUCTION)
    with pytest.raises(AppExportError, match="never live"):
        export_for_app(home, MODEL, AppPlatform.DESKTOP, tmp_path / "out")


def test_a_ledger_that_was_edited_to_say_production_is_not_believed(
    home: Store, manifest: BundleManifest, tmp_path: Path
) -> None:
    release(home, manifest, *TO_PRODUCTION, S.ROLLED_BACK)
    head = home.ledger.head()
    last = home.ledger.lines()[-1].payload | {"to": "superseded"}
    with home.database.write() as connection:
        connection.execute(update(ledger).where(ledger.c.seq == head).values(payload=json.dumps(last)))
    with pytest.raises(LedgerBrokenError):
        export_for_app(Store.open(home.settings, home.clock), MODEL, AppPlatform.DESKTOP, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_rollback_during_the_export_stops_it(
    live: Store, manifest: BundleManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from voice_pipeline.packaging import app_build

    def roll_back(*arguments: object) -> bytes:
        release(live, manifest, S.ROLLED_BACK, reason="harm")
        return b"{}"

    monkeypatch.setattr(app_build, "ml_bom", roll_back)
    with pytest.raises(AppExportError, match="rolled_back"):
        export_for_app(live, MODEL, AppPlatform.DESKTOP, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert live.ledger.lines(kind=EXPORTED) == []
