"""Each test plays an attack with stolen or made-up keys, and what new keys do about it; the device goes on with V1."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from voice_pipeline.device.client import DeviceClient
from voice_pipeline.device.errors import UpdateRefusedError, UpdateUnavailableError
from voice_pipeline.packaging.keys import key_files, make_key, signer
from voice_pipeline.packaging.metadata_chain import ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from voice_pipeline.packaging.rotation import revoke_signing, rotate, rotate_signing
from voice_pipeline.packaging.signing import sign_folder, signing_public_key
from voice_pipeline.schema.delivery_policy import MetadataRole
from voice_pipeline.schema.publication import SIGNING_KEY_FIELD
from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.device.attacked import (
    NewDevice,
    Refused,
    device,
    edge,
    prepared,
    recovers,
    refused,
    set_clock_back,
    thief,
    works_on_v1,
)
from voice_pipeline_tests.device.conftest import PHONE, V1, V2, Edge
from voice_pipeline_tests.device.thief import HUGE, Thief

__all__ = ["device", "edge", "prepared", "recovers", "refused", "thief"]
Recovers = Callable[[], None]


def forged_root(thief: Thief, folder: Path, keep: int) -> None:
    """A root all of whose keys, the one for bundles too, are the attacker's (in `folder`), signed by them and by `keep`
    stolen keys of the former root.
    """
    root = thief.read(ROOT)
    root.signed.version = 2
    own = [make_key(folder, ROOT) for _ in range(2)]
    for role in MetadataRole:
        for keyid in list(root.signed.roles[role].keyids):
            root.signed.revoke_key(keyid, role)
        for path in own:
            root.signed.add_key(signer(path).public_key, role)
    root.signed.unrecognized_fields[SIGNING_KEY_FIELD] = signing_public_key(folder).decode()
    stolen = key_files(thief._keys[ROOT], ROOT)[:keep]
    thief.write(root, ROOT, [*stolen, *own])


@pytest.mark.parametrize("keep", [0, 1])
def test_root_forged_with_fewer_stolen_keys_than_the_two_it_takes(
    thief: Thief, refused: Refused, recovers: Recovers, tmp_path: Path, keep: int
) -> None:
    forged_root(thief, tmp_path / "own", keep)
    refused(UpdateRefusedError, f"Unsigned.*root was signed by {keep}/2")
    thief.path(ROOT).unlink()
    recovers()


def test_root_forged_with_one_stolen_key_twice(thief: Thief, refused: Refused) -> None:
    """The same signature twice is one signature."""
    root = thief.read(ROOT)
    root.signed.version = 2
    key = key_files(thief._keys[ROOT], ROOT)[0]
    thief.write(root, ROOT, [key])
    content = json.loads(thief.path(ROOT).read_bytes())
    content["signatures"] *= 2
    thief.path(ROOT).write_text(json.dumps(content))
    refused(UpdateRefusedError, "(Unsigned|Deserialization)")


def test_root_that_its_own_keys_did_not_sign(thief: Thief, refused: Refused, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Signed by the former keys, but its new keys are somebody's who never saw it."""
    root = thief.read(ROOT)
    root.signed.version = 2
    for keyid in list(root.signed.roles["root"].keyids)[:2]:
        root.signed.revoke_key(keyid, "root")
    for _ in range(2):
        root.signed.add_key(signer(make_key(tmp_path / "others", ROOT)).public_key, ROOT)
    thief.write(root, ROOT)
    refused(UpdateRefusedError, "Unsigned.*root was signed by 1/2")


def test_root_that_skips_a_version(thief: Thief, refused: Refused) -> None:
    """Version 3 in the place of 2, soundly signed."""
    root = thief.read(ROOT)
    root.signed.version = 3
    thief.write(root, ROOT)
    thief.path(ROOT).rename(thief.metadata / "2.root.json")
    refused(UpdateRefusedError, "BadVersionNumber.*root version 2")


def test_root_planted_on_the_device_is_ignored(
    device: DeviceClient, new_device: NewDevice, thief: Thief, recovers: Recovers, tmp_path: Path
) -> None:
    """A file that nobody verified lies where verified roots are kept."""
    forged_root(thief, tmp_path / "own", keep=1)
    thief.path(ROOT).rename(device._updater._metadata / "root_history" / "2.root.json")
    assert signing_public_key(tmp_path / "own") not in new_device()._updater.signing_key()
    works_on_v1(new_device())
    recovers()


# --- fast forward, and keys that were taken away ---


@pytest.mark.parametrize("stolen", [(TIMESTAMP,), (SNAPSHOT, TIMESTAMP)])
def test_fast_forward_is_recovered_from_by_new_keys(
    edge: Edge,
    device: DeviceClient,
    thief: Thief,
    refused: Refused,
    recovers: Recovers,
    clock: ManualClock,
    stolen: tuple[MetadataRole, ...],
) -> None:
    """Versions near the end of all numbers: whatever the publisher does then looks like a rollback."""
    honest = edge.served.with_name("honest")
    shutil.copytree(edge.served, honest)
    if SNAPSHOT in stolen:
        thief.name_targets(HUGE)
    thief.next(TIMESTAMP, lambda signed: setattr(signed, "version", HUGE))
    device.poll()
    with pytest.raises((UpdateRefusedError, UpdateUnavailableError)):
        device.update() if SNAPSHOT in stolen else device._updater.fetch(V1 + "x", edge.served)
    shutil.rmtree(edge.served)
    honest.rename(edge.served)
    refused(UpdateRefusedError, "BadVersionNumber")
    for role in stolen:
        assert rotate(edge.settings, clock.now(), role) == []
    recovers()


def test_a_timestamp_forged_for_ever_and_a_clock_once_far_ahead_are_recovered_from_by_a_new_key(
    edge: Edge, device: DeviceClient, thief: Thief, refused: Refused, recovers: Recovers, clock: ManualClock
) -> None:
    """By what it holds the device would take its worst clock for the truth; the new root does not stand for that."""
    honest = thief.path(TIMESTAMP).read_bytes()
    thief.expire(TIMESTAMP, datetime(9000, 1, 1, tzinfo=UTC))
    with pytest.raises(UpdateUnavailableError, match="not on offer"):
        device._updater.fetch("m-20261102-00000009", edge.served)
    thief.path(TIMESTAMP).write_bytes(honest)
    start = clock.now()
    clock.advance(timedelta(days=20_000))
    device.poll()
    set_clock_back(clock, start)
    assert rotate(edge.settings, clock.now(), TIMESTAMP) == []
    refused(UpdateRefusedError, "Expired")  # but it has taken the root
    recovers()


def test_stolen_online_keys_are_worth_nothing_once_rotated(
    edge: Edge, device: DeviceClient, thief: Thief, refused: Refused, clock: ManualClock
) -> None:
    stolen = [(role, key_files(edge.settings.keys / "online", role)) for role in (SNAPSHOT, TIMESTAMP)]
    for role, _ in stolen:
        rotate(edge.settings, clock.now(), role)
    for role, keys in stolen:
        thief.write(thief.read(role), role, keys)
    refused(UpdateRefusedError, "Unsigned")


def test_device_that_was_off_during_rotations_of_everything_follows(
    edge: Edge, device: DeviceClient, new_device: NewDevice, recovers: Recovers, thief: Thief, clock: ManualClock
) -> None:
    """Three rotations of root, so that none of the keys it knows is left, and one of every other key."""
    for _ in range(3):
        rotate(edge.settings, clock.now(), ROOT)
    for role in (TARGETS, SNAPSHOT, TIMESTAMP):
        rotate(edge.settings, clock.now(), role)
    rotate_signing(edge.settings, clock.now())
    sign_folder(edge.settings.bundles / V2, edge.settings.keys)
    edge.offer(clock.now(), V2)
    recovers()
    works_on_v1_offline = new_device()
    works_on_v1_offline._http.close()
    assert works_on_v1_offline.recogniser.model_version == V2, "verified offline, by a key that only the chain names"


def test_bundle_key_taken_away_stops_its_bundles_and_leaves_devices_their_model(
    edge: Edge,
    device: DeviceClient,
    new_device: NewDevice,
    thief: Thief,
    refused: Refused,
    recovers: Recovers,
    clock: ManualClock,
) -> None:
    """With the revoked bundle key and a stolen targets key: V2 as it was signed before."""
    old = next(thief.targets.glob(f"*.{V2}.tar.xz")).read_bytes()
    former = signing_public_key(edge.settings.keys)
    assert revoke_signing(edge.settings, clock.now()) == []
    assert former not in signing_public_key(edge.settings.keys)
    thief.offer(V2, old)
    refused(UpdateRefusedError, "key mismatch")
    renewed = next(
        path for path in thief.targets.glob(f"*.{V2}.tar.xz") if hashlib.sha256(old).hexdigest() not in path.name
    )
    thief.offer(V2, renewed.read_bytes())
    recovers()
    standby = new_device().slots.standby()
    assert standby is not None
    assert standby.model_version == V1


# --- a bundle that is not what it is offered as ---

OTHER = "m-20261109-99999999"


def test_one_models_bundle_published_as_another_is_refused(edge: Edge, refused: Refused, clock: ManualClock) -> None:
    """Signed, whole, vouched for by the targets metadata, and assigned without a digest."""
    bundles = edge.settings.bundles
    shutil.copytree(bundles / V2, bundles / OTHER)
    shutil.copy(bundles / f"{V2}.sig", bundles / f"{OTHER}.sig")
    lie = edge.manifests[V2].model_copy(update={"model_version": OTHER})
    edge.repository(clock.now()).publish(bundles / OTHER, lie)
    edge.answer = {"model_version": OTHER, "reason": "DEFAULT"}
    refused(UpdateRefusedError, f"{OTHER} is of model {V2}")


@pytest.mark.parametrize("told", ["0" * 64, "", 5, {}, "V1's"])
def test_a_bundle_that_is_not_the_one_the_targets_metadata_names_is_refused(
    edge: Edge, thief: Thief, refused: Refused, told: object
) -> None:
    """Assigned without a digest."""
    edge.answer = {"model_version": V2, "reason": "DEFAULT"}
    digest = edge.manifests[V1].digest if told == "V1's" else told
    archive = next(thief.targets.glob(f"*.{V2}.tar.xz")).read_bytes()
    thief.offer(V2, archive, {"bundle_digest": digest})
    refused(UpdateRefusedError, "asked for was")


@pytest.mark.parametrize("custom", [{}, [], 7, "text"])
def test_targets_metadata_that_tells_no_digest_is_none_the_worse(
    edge: Edge, thief: Thief, recovers: Recovers, custom: object
) -> None:
    thief.offer(V2, next(thief.targets.glob(f"*.{V2}.tar.xz")).read_bytes(), custom)
    recovers()


# --- an app update that ships a newer root ---


@pytest.fixture
def updated_app(edge: Edge, device: DeviceClient, tmp_path: Path, http: httpx.Client, clock: ManualClock) -> NewDevice:
    """Starts the same home offline, with the newest root of the repository as the one that the app ships."""

    def start() -> DeviceClient:
        metadata = edge.repository(clock.now()).metadata
        newest = max(metadata.glob("*.root.json"), key=lambda path: int(path.name.split(".")[0]))
        return DeviceClient(
            tmp_path / "device", "http://127.0.0.1:9", http, "device-0001", PHONE, newest.read_bytes(), clock
        )

    return start


def test_an_app_update_after_a_revocation_leaves_devices_their_model(
    edge: Edge, device: DeviceClient, updated_app: NewDevice, thief: Thief, clock: ManualClock
) -> None:
    """Two roots later, neither of which the device has seen; what is fetched is still held to the newest."""
    former = signing_public_key(edge.settings.keys)
    assert revoke_signing(edge.settings, clock.now()) == []
    assert thief.read(ROOT).signed.version > 2
    updated = updated_app()
    works_on_v1(updated)
    assert former in updated._updater.signing_key()
    assert former not in updated._updater._roots.current_keys()


def test_an_app_update_after_rotations_of_all_root_keys_in_turn_leaves_devices_their_model(
    edge: Edge, device: DeviceClient, updated_app: NewDevice, clock: ManualClock
) -> None:
    for _ in range(3):
        rotate(edge.settings, clock.now(), ROOT)
        with device.slots.staging() as staging:
            device._updater.fetch(V2, staging)
    assert revoke_signing(edge.settings, clock.now()) == []
    works_on_v1(updated_app())


@pytest.mark.parametrize("claims", ["itself alone", "the signers of its successor, one of them enough"])
def test_an_older_root_planted_on_the_device_is_ignored_by_an_updated_app(
    edge: Edge,
    device: DeviceClient,
    updated_app: NewDevice,
    thief: Thief,
    clock: ManualClock,
    tmp_path: Path,
    claims: str,
) -> None:
    """The genuine successor verifies under the keys of the second one: it names them, and its own beside them."""
    root = thief.read(ROOT)
    honest = set(root.signed.roles[ROOT].keyids)
    assert revoke_signing(edge.settings, clock.now()) == []
    own = make_key(tmp_path / "own", ROOT)
    root.signed.add_key(signer(own).public_key, ROOT)
    root.signed.roles[ROOT].threshold = 1
    for keyid in honest if claims == "itself alone" else ():
        root.signed.revoke_key(keyid, ROOT)
    root.signed.unrecognized_fields[SIGNING_KEY_FIELD] = signing_public_key(tmp_path / "own").decode()
    root.signatures.clear()
    root.sign(signer(own), append=True)
    if claims != "itself alone":
        newest = thief.read(ROOT)
        root.signed.verify_delegate(ROOT, newest.signed_bytes, newest.signatures)
    root.to_file(str(device._updater._metadata / "root_history" / "1.root.json"))
    assert signing_public_key(tmp_path / "own") not in updated_app()._updater.signing_key()
