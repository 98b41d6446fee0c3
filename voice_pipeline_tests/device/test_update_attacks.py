"""Each test plays one attack or accident on an update; the device must go on with the model that it had."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tuf.api.metadata import TargetFile

from voice_pipeline.device.client import DeviceClient
from voice_pipeline.device.errors import (
    DeviceError,
    IncompatibleBundleError,
    NoModelError,
    UpdateRefusedError,
    UpdateUnavailableError,
)
from voice_pipeline.packaging.archive import pack
from voice_pipeline.packaging.metadata_chain import TARGETS
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.packaging.signing import sign_folder
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.settings import load_settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.device.conftest import V1, V2, V3, Edge
from voice_pipeline_tests.packaging.small_models import searching_decoder, sign_small_bundle

SPEECH = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
NewDevice = Callable[[], DeviceClient]


def refused(device: DeviceClient, new_device: NewDevice, error: type[DeviceError], match: str = "") -> None:
    """The update raises `error`; V1 is active and works, now and after a restart."""
    device.poll()
    with pytest.raises(error, match=match):
        device.update()
    for client in (device, new_device()):
        assert client.recogniser.model_version == V1
        client.transcribe(SPEECH)


def archive_of(edge: Edge, version: str) -> Path:
    return next((edge.served / "targets").glob(f"*.{version}.tar.xz"))


def test_honest_update_is_installed_and_the_former_model_stays_beside_it(
    edge: Edge, device: DeviceClient, new_device: NewDevice, clock: ManualClock
) -> None:
    edge.offer(clock.now(), V2)
    edge.assign(V2)
    device.poll()
    done = device.update()
    assert (done.model_version, done.activated, done.downloaded) == (V2, True, (V2,))
    assert new_device().recogniser.model_version == V2
    standby = new_device().slots.standby()
    assert standby is not None
    assert standby.model_version == V1


def test_tampered_archive_is_refused(edge: Edge, device: DeviceClient, new_device: NewDevice, clock) -> None:  # type: ignore[no-untyped-def]
    edge.offer(clock.now(), V2)
    edge.assign(V2)
    archive = archive_of(edge, V2)
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(bytes(data))
    refused(device, new_device, UpdateRefusedError, "LengthOrHashMismatch.*keeping the installed model")


def test_truncated_archive_is_refused(edge: Edge, device: DeviceClient, new_device: NewDevice, clock) -> None:  # type: ignore[no-untyped-def]
    edge.offer(clock.now(), V2)
    edge.assign(V2)
    archive = archive_of(edge, V2)
    archive.write_bytes(archive.read_bytes()[:10_000])
    refused(device, new_device, UpdateRefusedError, "LengthOrHashMismatch")


def test_endless_archive_is_cut_off(edge: Edge, device: DeviceClient, new_device: NewDevice, clock) -> None:  # type: ignore[no-untyped-def]
    edge.offer(clock.now(), V2)
    edge.assign(V2)
    archive = archive_of(edge, V2)
    archive.write_bytes(archive.read_bytes() + b"\0" * 1_000_000)
    refused(device, new_device, UpdateUnavailableError, "exceeding")


def test_rollback_to_older_metadata_is_refused(edge: Edge, device: DeviceClient, new_device: NewDevice, clock) -> None:  # type: ignore[no-untyped-def]
    before = edge.served.with_name("before")
    shutil.copytree(edge.served, before)
    edge.offer(clock.now(), V2)
    edge.assign(V2)
    device.poll()
    device.update()
    edge.assign(V1)
    device.poll()
    device.update()  # back to V1 from the standby slot, with newer metadata seen
    shutil.rmtree(edge.served)
    before.rename(edge.served)
    edge.assign(V2)
    shutil.rmtree(device.slots.standby().folder.parent)  # type: ignore[union-attr]
    refused(device, new_device, UpdateRefusedError, "BadVersionNumber")


def test_frozen_repository_is_refused_once_its_timestamp_has_expired(
    edge: Edge, device: DeviceClient, new_device: NewDevice, clock: ManualClock
) -> None:
    edge.offer(clock.now(), V2)
    edge.assign(V2)
    clock.advance(timedelta(days=31))
    refused(device, new_device, UpdateRefusedError, "Expired")
    edge.repository(clock.now()).renew()
    device.update()
    assert device.recogniser.model_version == V2


def test_repository_of_another_publisher_is_refused(
    edge: Edge, device: DeviceClient, new_device: NewDevice, clock: ManualClock, tmp_path: Path
) -> None:
    """An attacker with own keys, own root and an own bundle of that name, on the very same address."""
    attacker = load_settings(tmp_path / "attacker")
    shutil.copytree(edge.settings.bundles, attacker.bundles)
    sign_folder(attacker.bundles / V2, attacker.keys)
    UpdateRepository(attacker, clock.now()).publish(attacker.bundles / V2, edge.manifests[V2])
    shutil.rmtree(edge.served)
    shutil.copytree(attacker.tuf / "repository", edge.served)
    edge.assign(V2)
    refused(device, new_device, UpdateRefusedError, "Unsigned")


def _republish(edge: Edge, version: str, clock: ManualClock, **changes: object) -> None:
    """A publisher who has the update keys, but changes the bundle behind the signer's back."""
    folder = edge.settings.bundles / version
    content = json.loads((folder / "manifest.json").read_bytes()) | changes
    manifest = BundleManifest.model_validate(content)
    (folder / "manifest.json").write_bytes(canonical_json(manifest))
    edge.repository(clock.now()).publish(folder, manifest)
    edge.assign(version)
    edge.answer["bundle_digest"] = manifest.digest


def test_bundle_changed_after_signing_is_refused_though_the_repository_vouches_for_it(
    edge: Edge, device: DeviceClient, new_device: NewDevice, clock: ManualClock
) -> None:
    _republish(edge, V2, clock, owner="team:attackers")
    refused(device, new_device, UpdateRefusedError, "signature")


def test_bundle_signed_by_another_signer_is_refused_though_the_repository_vouches_for_it(
    edge: Edge, device: DeviceClient, new_device: NewDevice, clock: ManualClock, tmp_path: Path
) -> None:
    sign_folder(edge.settings.bundles / V2, tmp_path / "other-signer")
    edge.offer(clock.now(), V2)
    edge.assign(V2)
    refused(device, new_device, UpdateRefusedError, "key mismatch")


def test_bundle_other_than_the_assigned_digest_is_refused(
    edge: Edge, device: DeviceClient, new_device: NewDevice, clock: ManualClock
) -> None:
    edge.offer(clock.now(), V2)
    edge.assign(V2)
    edge.answer["bundle_digest"] = "0" * 64
    refused(device, new_device, UpdateRefusedError, "digest")


def _another_mean(golden: dict[str, Any]) -> None:
    golden["log_probs_mean"] += 1.0


def _other_classes(golden: dict[str, Any]) -> None:
    """One frame in twenty: with the same text perhaps, and nearly the same mean."""
    golden["best_classes"][::20] = [best + 1 for best in golden["best_classes"][::20]]


def _a_frame_less(golden: dict[str, Any]) -> None:
    del golden["best_classes"][-1]


@pytest.mark.parametrize("told", [_another_mean, _other_classes, _a_frame_less])
def test_signed_bundle_that_computes_something_else_here_is_refused(
    edge: Edge,
    device: DeviceClient,
    new_device: NewDevice,
    clock: ManualClock,
    told: Callable[[dict[str, Any]], None],
) -> None:
    """A runtime fault on this device: all signatures are right, the golden answers are not."""
    folder = edge.settings.bundles / V2
    content = json.loads((folder / "manifest.json").read_bytes())
    told(content["golden"][0])
    (folder / "manifest.json").write_bytes(canonical_json(BundleManifest.model_validate(content)))
    sign_folder(folder, edge.settings.keys)
    _republish(edge, V2, clock)
    refused(device, new_device, DeviceError, "golden")


def test_bundle_for_a_newer_app_is_left_alone(
    edge: Edge, device: DeviceClient, new_device: NewDevice, clock: ManualClock
) -> None:
    edge.offer(clock.now(), V3)
    edge.assign(V3)
    refused(device, new_device, IncompatibleBundleError, "9.0.0")


def test_a_bundle_that_searches_is_refused_by_an_app_from_before_the_search_and_taken_by_a_newer_one(
    edge: Edge, device: DeviceClient, new_device: NewDevice, clock: ManualClock
) -> None:
    searching = "m-20261102-0000beaa"
    signed = sign_small_bundle(edge.settings, searching, 3, decoder=searching_decoder())
    edge.manifests = {**edge.manifests, searching: signed}
    edge.offer(clock.now(), searching)
    edge.assign(searching)
    refused(device, new_device, IncompatibleBundleError, "needs app 1.5.0, not 1.2.0; update the app")
    newer = new_device()
    newer.context = newer.context.model_copy(update={"app_version": "1.5.0"})
    newer.poll()
    assert newer.update().activated
    assert newer.recogniser.model_version == searching


def test_bundle_on_offer_in_its_former_form_is_taken(edge: Edge, device: DeviceClient, clock: ManualClock) -> None:
    """Plain tar, as publishers made it for apps before 1.5.0."""
    data = pack(edge.settings.bundles / V2, "x.tar")
    file = TargetFile.from_data(f"{V2}.tar", data, ["sha256"])
    chain = edge.repository(clock.now()).chain
    (edge.served / "targets" / f"{file.hashes['sha256']}.{V2}.tar").write_bytes(data)
    with chain.exclusive():
        targets = chain.current(TARGETS)
        targets.signed.targets[f"{V2}.tar"] = file
        chain.propose(targets, TARGETS)
        chain.settle()
    edge.assign(V2)
    device.poll()
    assert device.update().downloaded == (V2,)


def test_model_that_is_not_on_offer_is_unavailable(edge: Edge, device: DeviceClient, new_device: NewDevice) -> None:
    edge.assign(V2)
    refused(device, new_device, UpdateUnavailableError, "not on offer")


def test_archive_missing_from_the_server_is_unavailable(
    edge: Edge, device: DeviceClient, new_device: NewDevice, clock: ManualClock
) -> None:
    edge.offer(clock.now(), V2)
    edge.assign(V2)
    archive_of(edge, V2).unlink()
    refused(device, new_device, UpdateUnavailableError)


def test_active_model_damaged_on_the_disk_is_never_run_and_the_other_slot_takes_over(
    edge: Edge, device: DeviceClient, new_device: NewDevice, clock: ManualClock
) -> None:
    edge.offer(clock.now(), V2)
    edge.assign(V2)
    device.poll()
    device.update()
    network = device.slots.active().folder / "model.onnx"  # type: ignore[union-attr]
    network.write_bytes(network.read_bytes()[:-1])
    restarted = new_device()
    assert restarted.recogniser.model_version == V1
    other = new_device()
    other.update()
    assert other.recogniser.model_version == V2  # fetched again and verified
    assert new_device().recogniser.model_version == V2


def test_device_without_any_sound_model_says_so(device: DeviceClient, new_device: NewDevice) -> None:
    (device.slots.active().folder / "model.onnx").write_bytes(b"")  # type: ignore[union-attr]
    with pytest.raises(NoModelError, match="poll and update"):
        _ = new_device().recogniser
