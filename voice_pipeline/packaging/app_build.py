"""The second way out of the door: a bundle as a folder for an app's build, manifest and signature byte for byte.

```
<shipped>/<model_version>/       the bundle, as it was signed
<shipped>/<model_version>.sig    its signature
<shipped>/root.json              the root in force, which the app starts from; it names the key of the signature
<model_version>.cdx.json         bill of materials (`mlbom`)
INTEGRATION.md                   what an app's engineer needs to know, from the manifest (`app_notes`)
required_operators.config        Android and iOS: what a reduced build of ONNX Runtime must hold for `model.ort`
required_operators_and_types.config                 the same with the types of their inputs
```
`<shipped>` is `SHIPPED[platform]`; a device client takes that folder as what its app brought along.

Promises: only a bundle that the ledger, its hash chain intact, says has been live and was not taken back leaves so; a
ledger line tells of it before the folder is there; the folder appears in one move, after the copy was verified with the
root that lies in it; a killed export leaves nothing there. What a killed one leaves beside it, the next one removes.
"""

from __future__ import annotations

import json
import logging
import os
import plistlib
import shutil
import tempfile
from pathlib import Path

from voice_pipeline.packaging.app_notes import integration_notes
from voice_pipeline.packaging.bundle import catalogued
from voice_pipeline.packaging.errors import AppExportError, BundleConflictError, MissingInputError
from voice_pipeline.packaging.mlbom import ml_bom, ml_bom_name
from voice_pipeline.packaging.platforms import EXPORTED, REDUCED, SHIPPED, AppPlatform
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.schema.delivery_policy import MetadataRole
from voice_pipeline.schema.publication import SIGNING_KEY_FIELD
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.store.blobs import write_atomically
from voice_pipeline.store.releases import ReleaseView, release_stream, releases_at_head
from voice_pipeline.store.store import Store
from voice_pipeline.trust import MANIFEST, TrustError, signature_path, verify_bundle

ROOT = "root.json"
NETWORK = "model.ort"
TAKEN_BACK = frozenset({ReleaseState.ROLLED_BACK, ReleaseState.REJECTED})


def export_for_app(store: Store, model_version: str, platform: AppPlatform, folder: Path) -> BundleManifest:
    """Make `folder` the export of a model's bundle; it must be empty or not exist.

    Raises:
        MissingInputError: no bundle of that model is catalogued.
        AppExportError: it was never live or was taken back, or `folder` is taken.
        BundleConflictError: it does not verify with the root that devices start from.
        LedgerBrokenError: the ledger was tampered with.
        LedgerConflictError: a release moved, or this one was decided upon, while the line was written; export again.
    """
    from filelock import FileLock

    manifest, folder = catalogued(store, model_version), folder.resolve()
    if manifest is None:
        raise MissingInputError(f"model {model_version} has no bundle in this home; materialise signed_bundle first")
    _refuse_taken(folder)
    store.ledger.verify()
    approved(store, manifest)
    staging = folder.with_name(f".{folder.name}.exporting")
    with FileLock(store.settings.bundles / ".export.lock"):
        shutil.rmtree(staging, ignore_errors=True)
        try:
            _assemble(store, manifest, platform, staging)
            _tell(store, manifest, platform)
            _move(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return manifest


def approved(store: Store, manifest: BundleManifest) -> tuple[int, ReleaseView]:
    """The ledger's head, and the release by which this bundle was live and, as of that head, was not taken back.

    Raises:
        AppExportError: there is none. Devices can be assigned a candidate by flag; an app cannot take it back.
    """
    head, views = releases_at_head(store)
    own = [view for view in views if view.bundle_digest == manifest.digest]
    decided = [view for view in own if view.state in TAKEN_BACK or view.entered(ReleaseState.PRODUCTION)]
    last = decided[-1] if decided else None
    if last is None:
        stands = f"{own[-1].release_id} is {own[-1].state.value}" if own else "it has no release"
        raise AppExportError(f"model {manifest.model_version} was never live ({stands}); finish its rollout first")
    if last.state in TAKEN_BACK:
        raise AppExportError(
            f"model {manifest.model_version} is not for apps: {last.release_id} was {last.state.value} "
            f"({last.transitions[-1].reason}); export another model"
        )
    return head, last


def _refuse_taken(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AppExportError(f"{folder} is not an empty folder; name another, or remove what is there")


def _assemble(store: Store, manifest: BundleManifest, platform: AppPlatform, staging: Path) -> None:
    """Copy, verify, and add what goes along, in a folder that nobody looks into yet."""
    source, shipped = store.settings.bundles / manifest.model_version, staging / SHIPPED[platform]
    root = root_in_force(store)
    _verify(source, root, manifest)
    copy = shipped / manifest.model_version
    for name in (MANIFEST, *(file.path for file in manifest.files)):
        write_atomically(copy / name, (source / name).read_bytes())
    write_atomically(signature_path(copy), signature_path(source).read_bytes())
    write_atomically(shipped / ROOT, root)
    _verify(copy, (shipped / ROOT).read_bytes(), manifest)
    if platform is AppPlatform.IOS:
        write_atomically(shipped / "Info.plist", _info_plist(manifest))
    if platform in REDUCED:
        for name, data in required_operators(copy / NETWORK).items():
            write_atomically(staging / name, data)
    write_atomically(staging / ml_bom_name(manifest.model_version), ml_bom(manifest))
    notes = integration_notes(manifest, copy, platform)
    write_atomically(staging / "INTEGRATION.md", notes.encode())


def root_in_force(store: Store) -> bytes:
    """The newest root of the update repository: a new app starts from it, as it names the keys of bundles of today.

    Raises:
        RepositoryDamagedError: it cannot be read.
    """
    chain = UpdateRepository(store.settings, store.now()).chain
    with chain.exclusive():
        chain.current(MetadataRole.ROOT)
        return (chain.metadata / f"{max(chain.root_versions())}.root.json").read_bytes()


def _verify(folder: Path, root: bytes, manifest: BundleManifest) -> None:
    """The bundle is what a device takes that knows nothing but `root`."""
    try:
        verify_bundle(folder, bundle_keys(root), manifest.digest)
    except TrustError as error:
        raise BundleConflictError(
            f"bundle does not verify with the root that apps ship: {error}; nothing was exported"
        ) from error


def bundle_keys(root: bytes) -> bytes:
    """PEM of the keys that sign bundles, as a root of the update repository names them.

    Raises:
        AppExportError: it is no such root.
    """
    try:
        return str(json.loads(root)["signed"][SIGNING_KEY_FIELD]).encode()
    except (ValueError, KeyError, TypeError) as error:
        raise AppExportError("root.json names no key that bundles are signed with; take that of an export") from error


def _tell(store: Store, manifest: BundleManifest, platform: AppPlatform) -> None:
    """One ledger line for a bundle, platform and release; the release is judged again at the line's own head."""
    head, release = approved(store, manifest)
    payload = {
        "model_version": manifest.model_version,
        "release_id": release.release_id,
        "platform": platform.value,
    }
    told = store.ledger.lines(kind=EXPORTED, subject=manifest.digest)
    if all(line.payload != payload for line in told):
        stream = release_stream(release.release_id, manifest.digest)
        store.ledger.append(EXPORTED, manifest.digest, payload, "packaging", head, stream=stream)


def _move(staging: Path, folder: Path) -> None:
    """The system refuses the move where something came to lie in `folder` meanwhile."""
    try:
        staging.rename(folder)
    except OSError as error:
        raise AppExportError(f"export cannot be moved to {folder} ({error.strerror}); name another folder") from error
    parent = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _info_plist(manifest: BundleManifest) -> bytes:
    """What Apple asks of a resource bundle; its version numbers are those of `created_at`."""
    made = manifest.created_at
    content = {
        "CFBundleIdentifier": f"voice-pipeline.dictation.{manifest.model_version}",
        "CFBundleInfoDictionaryVersion": "6.0",
        "CFBundleName": "Dictation",
        "CFBundlePackageType": "BNDL",
        "CFBundleShortVersionString": f"{made.year}.{made.month}.{made.day}",
        "CFBundleVersion": f"{made:%Y%m%d}.{made.hour}.{made.minute}",
    }
    return plistlib.dumps(content)


def required_operators(network: Path) -> dict[str, bytes]:
    """Names and contents of the configurations for a reduced build of ONNX Runtime that runs this `.ort` file, by its
    own tools (https://onnxruntime.ai/docs/reference/operators/reduced-operator-config-file.html).
    """
    from onnxruntime.tools.ort_format_model.utils import create_config_from_models

    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
    configurations = {}
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "operators"
        for name, types in (("required_operators", False), ("required_operators_and_types", True)):
            create_config_from_models([network], written, enable_type_reduction=types)
            text = written.read_text().replace(str(network), network.name)  # its own comment names the path
            configurations[f"{name}.config"] = text.encode()
    return configurations
