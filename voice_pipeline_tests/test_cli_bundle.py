"""`voice-pipeline bundle` on the command line: out of the door, as a bill, checked with a home's key or a root's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from voice_pipeline.packaging.mlbom import ml_bom
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.settings import load_settings
from voice_pipeline.store.store import Store
from voice_pipeline_tests.command_line import run
from voice_pipeline_tests.packaging.small_models import sign_small_bundle
from voice_pipeline_tests.packaging.small_releases import TO_PRODUCTION, catalogue, release

MODEL = "m-20261102-00000001"


@pytest.fixture
def manifest(store: Store) -> BundleManifest:
    """A catalogued bundle that is live."""
    made = sign_small_bundle(store.settings, MODEL, 0)
    catalogue(store, made)
    UpdateRepository(store.settings, store.now()).publish(store.settings.bundles / MODEL, made)
    release(store, made, *TO_PRODUCTION)
    return made


def test_an_export_is_checked_where_there_is_no_home_with_the_root_that_came_along(
    manifest: BundleManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(monkeypatch, "bundle", "export", MODEL, str(out), "--for", "desktop") == 0
    assert manifest.digest in capsys.readouterr().out
    monkeypatch.setenv("VOICE_PIPELINE_HOME", str(tmp_path / "nowhere"))
    arguments = ["bundle", "verify", str(out / MODEL), "--root", str(out / "root.json")]
    assert run(monkeypatch, *arguments) == 0
    assert f"digest {manifest.digest}" in capsys.readouterr().out
    assert not (tmp_path / "nowhere").exists()
    (out / MODEL / "tokenizer.json").write_text("{}")
    assert run(monkeypatch, *arguments) == 1
    assert "tokenizer.json" in capsys.readouterr().err


def test_a_root_of_somebody_else_or_none_is_refused_in_one_line(
    manifest: BundleManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = load_settings().bundles / MODEL
    stranger = tmp_path / "root.json"
    other = Store.open(load_settings(tmp_path / "other"))
    stranger.write_bytes(UpdateRepository(other.settings, other.now()).trusted_root())
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    for root, words in ((stranger, "key mismatch"), (empty, "no key"), (tmp_path / "absent", "No such file")):
        assert run(monkeypatch, "bundle", "verify", str(bundle), "--root", str(root)) == 1
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1
        assert words in told[0]


def test_any_bundle_folder_is_checked_with_the_key_of_the_home(
    manifest: BundleManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundles = load_settings().bundles
    for name in (MODEL, "renamed"):
        shutil.copytree(bundles / MODEL, tmp_path / "elsewhere" / name)
        shutil.copyfile(bundles / f"{MODEL}.sig", tmp_path / "elsewhere" / f"{name}.sig")
    assert run(monkeypatch, "bundle", "verify", str(tmp_path / "elsewhere" / MODEL)) == 0
    assert capsys.readouterr().out == f"{MODEL} is intact and signed, digest {manifest.digest}\n"
    assert run(monkeypatch, "bundle", "verify", str(tmp_path / "elsewhere" / "renamed")) == 1
    assert f"bundle renamed is of model {MODEL}" in capsys.readouterr().err


def test_the_bill_is_printed_or_written_and_is_that_of_the_catalogued_bundle(
    manifest: BundleManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "bundle", "bom", MODEL) == 0
    assert capsys.readouterr().out.encode() == ml_bom(manifest)
    assert run(monkeypatch, "bundle", "bom", MODEL, "-o", str(tmp_path / "bill.json")) == 0
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "bill.json").read_bytes())["bomFormat"] == "CycloneDX"


@pytest.mark.parametrize("verb", [["export", "--for", "ios"], ["bom"]])
def test_a_model_without_a_bundle_is_named(
    verb: list[str], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = [str(tmp_path / "out")] if verb[0] == "export" else []
    assert run(monkeypatch, "bundle", verb[0], "m-20261102-0000000f", *target, *verb[1:]) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert "m-20261102-0000000f" in told[0]
    assert not (tmp_path / "out").exists()


def test_what_was_rolled_back_is_refused_with_the_reason_and_no_flag_forces_it(
    manifest: BundleManifest,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    release(store, manifest, ReleaseState.ROLLED_BACK, reason="slow on phones")
    arguments = ["bundle", "export", MODEL, str(tmp_path / "out"), "--for", "android"]
    assert run(monkeypatch, *arguments) == 1
    assert "slow on phones" in capsys.readouterr().err
    assert run(monkeypatch, *arguments, "--force") == 2
    assert not (tmp_path / "out").exists()


def test_an_export_needs_to_know_for_what(
    manifest: BundleManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "bundle", "export", MODEL, str(tmp_path / "out")) == 2
    assert run(monkeypatch, "bundle", "export", MODEL, str(tmp_path / "out"), "--for", "toaster") == 2
    assert "android" in capsys.readouterr().err
