"""An app's build gets the bundle as it was signed, if it was live and not taken back, and whole or not at all."""

from __future__ import annotations

import json
import multiprocessing
import plistlib
import random
import re
import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from onnxruntime.tools.reduced_build_config_parser import parse_config

from voice_pipeline.device.recogniser import load_bundle
from voice_pipeline.packaging.app_build import bundle_keys, export_for_app, required_operators
from voice_pipeline.packaging.errors import AppExportError, BundleConflictError, MissingInputError
from voice_pipeline.packaging.mlbom import ml_bom
from voice_pipeline.packaging.platforms import EXPORTED, SHIPPED, AppPlatform
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.packaging.rotation import revoke_signing, rotate_signing
from voice_pipeline.packaging.signing import sign_folder
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.settings import Settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline.trust import verify_bundle
from voice_pipeline_tests.packaging import exported_and_killed
from voice_pipeline_tests.packaging.app_publisher import (
    MODEL,
    bundle_of,
    contents,
    damaged,
    home,
    live,
    manifest,
    module_clock,
    publisher,
)

__all__ = ["home", "live", "manifest", "module_clock", "publisher"]

ANYWHERE, LAST_STEPS = 24, 12
PRELOADED = [
    *("voice_pipeline_tests.packaging.exported_and_killed", "onnxruntime.tools.ort_format_model.utils"),
    *("cyclonedx.model.bom", "cyclonedx.output.json", "cyclonedx.validation.json", "jsonschema.validators"),
    *("tuf.api.metadata", "tuf.api.serialization.json", "securesystemslib.signer", "filelock"),
    *("cryptography.hazmat.primitives.asymmetric.ec", "sqlalchemy.dialects.sqlite", "fsspec.implementations.local"),
]


@pytest.mark.parametrize("platform", AppPlatform)
def test_an_export_is_the_bundle_byte_for_byte_and_a_device_that_trusts_its_root_runs_it(
    live: Store, manifest: BundleManifest, tmp_path: Path, platform: AppPlatform
) -> None:
    out = tmp_path / "new" / "out"
    export_for_app(live, MODEL, platform, out)
    shipped = out / SHIPPED[platform]
    found = contents(shipped)
    assert {name: found[name] for name in bundle_of(live)} == bundle_of(live)
    root = (shipped / "root.json").read_bytes()
    assert root == UpdateRepository(live.settings, live.now()).trusted_root(), "no key was changed yet"
    recogniser = load_bundle(shipped / MODEL, bundle_keys(root), manifest.digest, manifest.min_app_version)
    recogniser.transcribe(np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32))
    assert (out / f"{MODEL}.cdx.json").read_bytes() == ml_bom(manifest)
    assert not list(tmp_path.rglob("*.exporting"))


def test_nothing_but_what_the_platform_wants_goes_into_the_app(live: Store, tmp_path: Path) -> None:
    outside = {"INTEGRATION.md", f"{MODEL}.cdx.json"}
    reduced = {"required_operators.config", "required_operators_and_types.config"}
    inside = {*bundle_of(live), "root.json"}
    for platform in AppPlatform:
        export_for_app(live, MODEL, platform, tmp_path / platform.value)
    found = {platform: set(contents(tmp_path / platform.value)) for platform in AppPlatform}
    assert found[AppPlatform.DESKTOP] == outside | inside
    assert found[AppPlatform.ANDROID] == outside | reduced | {f"src/main/assets/dictation/{name}" for name in inside}
    ios = {f"Dictation.bundle/{name}" for name in inside | {"Info.plist"}}
    assert found[AppPlatform.IOS] == outside | reduced | ios
    left_out_by_aapt = re.compile(r"(^|/)[._]|~$|(^|/)(CVS|thumbs\.db|picasa\.ini)$|\.scc$")
    assert not [name for name in inside if left_out_by_aapt.search(name)]


def test_the_property_list_of_the_resource_bundle_is_one_that_apple_takes(live: Store, tmp_path: Path) -> None:
    export_for_app(live, MODEL, AppPlatform.IOS, tmp_path / "out")
    told = plistlib.loads((tmp_path / "out" / "Dictation.bundle" / "Info.plist").read_bytes())
    assert told["CFBundlePackageType"] == "BNDL"
    assert re.fullmatch(r"[A-Za-z0-9.-]+", told["CFBundleIdentifier"])
    assert told["CFBundleIdentifier"].endswith(MODEL)
    for name in ("CFBundleShortVersionString", "CFBundleVersion"):
        assert re.fullmatch(r"\d+(\.\d+){0,2}", told[name])
    assert {"CFBundleInfoDictionaryVersion", "CFBundleName"} <= told.keys()


def test_the_operators_for_a_reduced_runtime_are_those_of_the_flat_network(live: Store, tmp_path: Path) -> None:
    export_for_app(live, MODEL, AppPlatform.ANDROID, tmp_path / "out")
    plain, typed = (
        tmp_path / "out" / "required_operators.config",
        tmp_path / "out" / "required_operators_and_types.config",
    )
    operators, _ = parse_config(str(plain))
    names = {name for opsets in operators["ai.onnx"].values() for name in opsets}
    assert {"Conv", "LogSoftmax", "Relu"} <= names | set(operators.get("com.microsoft", {1: set()})[1])
    same, types = parse_config(str(typed), True)
    assert same == operators
    assert types is not None
    assert '"float"' in typed.read_text()
    assert not [line for line in (*plain.open(), *typed.open()) if str(tmp_path) in line or "/tmp" in line]
    assert required_operators(live.settings.bundles / MODEL / "model.ort") == required_operators(
        tmp_path / "out" / "src/main/assets/dictation" / MODEL / "model.ort"
    )


@pytest.mark.parametrize("platform", AppPlatform)
def test_the_notes_name_only_what_is_there_and_what_the_network_has(
    live: Store, manifest: BundleManifest, tmp_path: Path, platform: AppPlatform
) -> None:
    import onnxruntime

    out = tmp_path / "out"
    export_for_app(live, MODEL, platform, out)
    notes = (out / "INTEGRATION.md").read_text()
    bundle = out / SHIPPED[platform] / MODEL
    table = re.findall(r"^\| `([^`]+)` \| (\d+) \| ([0-9a-f]{64}) ", notes, re.MULTILINE)
    assert table == [(file.path, str(file.length), file.sha256) for file in manifest.files]
    for vector in manifest.golden:
        assert f"| `{vector.path}` | {vector.text} | {vector.log_probs_mean:.6f} |" in notes
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"))
    heard, told = session.get_inputs()[0], session.get_outputs()[0]
    assert f"Input `{heard.name}`: float32, shape (1, samples)" in notes
    assert f"Output `{told.name}`: float32, shape (1, frames, {told.shape[2]})" in notes
    assert f"Decoder: {json.loads((bundle / 'decoder.json').read_text())['kind']}." in notes
    assert manifest.digest in notes
    for named in re.findall(r"`([^`\n]+\.(?:config|json|sig|plist))`", notes):
        assert any((folder / named).is_file() for folder in (out, out / SHIPPED[platform], bundle)), named
    verify = re.search(r"bundle verify (\S+) --root (\S+)", notes)
    assert verify
    verify_bundle(out / verify[1], bundle_keys((out / verify[2]).read_bytes()), manifest.digest)


def test_a_model_without_a_bundle_is_unknown(home: Store, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="m-20261102-0000000f"):
        export_for_app(home, "m-20261102-0000000f", AppPlatform.DESKTOP, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("taken", ["a file", "a folder with a hidden file"])
def test_what_lies_at_the_target_is_left_alone(live: Store, tmp_path: Path, taken: str) -> None:
    out = tmp_path / "out"
    mine = out if taken == "a file" else out / ".mine"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("precious")
    with pytest.raises(AppExportError, match="not an empty folder"):
        export_for_app(live, MODEL, AppPlatform.DESKTOP, out)
    assert mine.read_text() == "precious"
    assert live.ledger.lines(kind=EXPORTED) == []


def test_what_comes_to_lie_at_the_target_meanwhile_is_left_alone(
    live: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from voice_pipeline.packaging import app_build

    def fill(*arguments: object) -> bytes:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("precious")
        return b"{}"

    monkeypatch.setattr(app_build, "ml_bom", fill)
    with pytest.raises(AppExportError, match="cannot be moved"):
        export_for_app(live, MODEL, AppPlatform.DESKTOP, tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine": b"precious"}
    assert not (tmp_path / ".out.exporting").exists()


@pytest.mark.parametrize("harm", ["changed", "missing", "added", "unsigned", "another key", "another manifest"])
def test_a_bundle_that_does_not_verify_with_the_root_that_apps_ship_stays_here(
    live: Store, manifest: BundleManifest, tmp_path: Path, harm: str
) -> None:
    folder = live.settings.bundles / MODEL
    match harm:
        case "changed":
            (folder / "model.ort").write_bytes(damaged((folder / "model.ort").read_bytes()))
        case "missing":
            (folder / "tokenizer.json").unlink()
        case "added":
            (folder / "notes.txt").write_text("hello")
        case "unsigned":
            folder.with_name(f"{MODEL}.sig").unlink()
        case "another key":
            sign_folder(folder, tmp_path / "keys")
        case "another manifest":
            text = (folder / "manifest.json").read_text().replace("team:speech", "team:somewho")
            (folder / "manifest.json").write_text(text)
            sign_folder(folder, live.settings.keys)
    with pytest.raises(BundleConflictError, match=MODEL):
        export_for_app(live, MODEL, AppPlatform.ANDROID, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.exporting").exists()
    assert live.ledger.lines(kind=EXPORTED) == []


def test_a_copy_that_a_bad_disk_changed_is_not_handed_over(
    live: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from voice_pipeline.packaging import app_build
    from voice_pipeline.store.blobs import write_atomically

    def bad_disk(path: Path, data: bytes) -> None:
        write_atomically(path, damaged(data) if path.name == "model.onnx" else data)

    monkeypatch.setattr(app_build, "write_atomically", bad_disk)
    with pytest.raises(BundleConflictError, match=r"model\.onnx"):
        export_for_app(live, MODEL, AppPlatform.DESKTOP, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_ledger_tells_once_of_each_platform(live: Store, manifest: BundleManifest, tmp_path: Path) -> None:
    for number, platform in enumerate([AppPlatform.IOS, AppPlatform.IOS, AppPlatform.DESKTOP]):
        export_for_app(live, MODEL, platform, tmp_path / str(number))
    lines = live.ledger.lines(kind=EXPORTED)
    assert [(line.subject, line.payload["platform"]) for line in lines] == [
        (manifest.digest, "ios"),
        (manifest.digest, "desktop"),
    ]
    assert {line.payload["release_id"] for line in lines} == {f"{MODEL}-r1"}
    live.ledger.verify()


@pytest.mark.parametrize("turn", [rotate_signing, revoke_signing])
def test_after_a_change_of_keys_an_app_gets_the_root_that_names_the_key_of_its_bundle(
    live: Store, manifest: BundleManifest, tmp_path: Path, turn: Callable[[Settings, datetime], list[object]]
) -> None:
    first = UpdateRepository(live.settings, live.now()).trusted_root()
    assert turn(live.settings, live.now()) == []
    export_for_app(live, MODEL, AppPlatform.DESKTOP, tmp_path / "out")
    root = (tmp_path / "out" / "root.json").read_bytes()
    assert root != first
    verify_bundle(tmp_path / "out" / MODEL, bundle_keys(root), manifest.digest)


def test_two_exports_of_a_home_differ_in_nothing(live: Store, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_for_app(live, MODEL, AppPlatform.IOS, tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_an_export_killed_at_any_step_leaves_nothing_at_its_target_or_the_whole(
    live: Store, manifest: BundleManifest, clock: ManualClock, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    log, root = tmp_path / "steps", live.settings.root

    def run(out: Path, die_at: int) -> None:
        arguments = (root, MODEL, out, clock.now(), die_at, log)
        process = context.Process(target=exported_and_killed.export, args=arguments)
        process.start()
        process.join(60)
        assert process.exitcode == (-signal.SIGKILL if die_at else 0)

    run(tmp_path / "first", 0)
    whole = contents(tmp_path / "first")
    run(tmp_path / "second", 0)
    steps = int(log.read_text())
    anywhere = random.Random(7).sample(range(1, steps - LAST_STEPS), ANYWHERE)
    found = []
    for die_at in [*sorted(anywhere), *range(steps - LAST_STEPS, steps + 1)]:
        out = tmp_path / f"killed-{die_at}"
        if die_at % 2:
            out.mkdir()
        run(out, die_at)
        found.append(contents(out))
        assert found[-1] in ({}, whole), f"killed at step {die_at} of {steps}"
        assert out.exists() or not die_at % 2
        if not found[-1]:
            run(out, 0)
            assert contents(out) == whole
        assert not (tmp_path / f".{out.name}.exporting").exists() or found[-1]
    assert {bool(each) for each in found} == {True, False}  # some died before the move, some after
    assert len(live.ledger.lines(kind=EXPORTED)) == 1
    live.ledger.verify()
