"""Each test plays an attack on the repository's metadata, some with stolen keys; the device goes on with V1, and takes
V2 as soon as the attack is over.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from voice_pipeline.device.client import DeviceClient
from voice_pipeline.device.errors import UpdateRefusedError, UpdateUnavailableError
from voice_pipeline.packaging.keys import key_files, make_key, signer
from voice_pipeline.packaging.metadata_chain import ROOT, SIGNING_KEY_FIELD, SNAPSHOT, TARGETS, TIMESTAMP
from voice_pipeline.packaging.rotation import revoke_signing, rotate, rotate_signing
from voice_pipeline.packaging.signing import sign_folder, signing_public_key
from voice_pipeline.schema.delivery_policy import MetadataRole
from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.device.attacked import (
    NewDevice,
    Refused,
    device,
    edge,
    prepared,
    recovers,
    refused,
    thief,
    works_on_v1,
)
from voice_pipeline_tests.device.conftest import V1, V2, Edge
from voice_pipeline_tests.device.thief import HUGE, Thief

__all__ = ["device", "edge", "prepared", "recovers", "refused", "thief"]
Recovers = Callable[[], None]
BELOW_ROOT = pytest.mark.parametrize("role", [TARGETS, SNAPSHOT, TIMESTAMP])
EVERY_ROLE = pytest.mark.parametrize("role", list(MetadataRole))


def installed(device: DeviceClient, version: str) -> None:
    device.poll()
    device.update()
    assert device.recogniser.model_version == version


@pytest.fixture
def back_on_v1(edge: Edge, device: DeviceClient, thief: Thief) -> None:
    """The device has taken V2 with the metadata that offers it, was assigned V1 again, and has lost V2's slot."""
    installed(device, V2)
    edge.assign(V1)
    installed(device, V1)
    shutil.rmtree(device.slots.standby().folder.parent)  # type: ignore[union-attr]
    edge.assign(V2)


# --- tampering and wrong keys ---


@EVERY_ROLE
def test_tampered_metadata(
    edge: Edge, thief: Thief, refused: Refused, recovers: Recovers, clock: ManualClock, role: MetadataRole
) -> None:
    """One byte of what was signed is another one."""
    rotate(edge.settings, clock.now(), ROOT)
    path = thief.path(role)
    intact = path.read_bytes()
    content = json.loads(intact)
    content["signed"]["expires"] = "2036-01-01T00:00:00Z"
    path.write_text(json.dumps(content))
    refused(UpdateRefusedError, "Unsigned.*keeping the installed model")
    path.write_bytes(intact)
    recovers()


@EVERY_ROLE
def test_metadata_signed_by_an_attackers_own_key(
    edge: Edge, thief: Thief, refused: Refused, clock: ManualClock, tmp_path, role: MetadataRole
) -> None:  # type: ignore[no-untyped-def]
    rotate(edge.settings, clock.now(), ROOT)
    thief.write(thief.read(role), role, [make_key(tmp_path / "own", role)])
    refused(UpdateRefusedError, "Unsigned")


@EVERY_ROLE
def test_metadata_that_is_none(
    edge: Edge, thief: Thief, device: DeviceClient, refused: Refused, clock: ManualClock, role: MetadataRole
) -> None:
    rotate(edge.settings, clock.now(), ROOT)
    device.poll()
    for nonsense in (b"{", b"[" * 9_000, b"\xff\x00", b'{"signed": {}, "signatures": []}'):
        thief.path(role).write_bytes(nonsense)
        with pytest.raises(UpdateRefusedError, match="Deserialization"):
            device.update()
    thief.path(role).write_bytes(b"")
    refused(UpdateRefusedError, "Deserialization")


# --- rollback, freeze, mix-and-match ---


def test_rollback_of_the_timestamp(edge: Edge, thief: Thief, back_on_v1: None, refused: Refused) -> None:
    timestamp = thief.read(TIMESTAMP)
    timestamp.signed.version -= 1
    thief.write(timestamp, TIMESTAMP)
    refused(UpdateRefusedError, "BadVersionNumber.*timestamp version 2")


def test_rollback_of_the_snapshot(thief: Thief, back_on_v1: None, refused: Refused) -> None:
    """With a stolen timestamp key: a new timestamp names the snapshot before."""
    thief.name_snapshot(thief.read(SNAPSHOT).signed.version - 1)
    refused(UpdateRefusedError, "BadVersionNumber.*snapshot version")


def test_rollback_of_the_targets(thief: Thief, back_on_v1: None, refused: Refused) -> None:
    """With stolen snapshot and timestamp keys: a new snapshot names the targets before."""
    thief.name_targets(thief.read(TARGETS).signed.version - 1)
    refused(UpdateRefusedError, r"BadVersionNumber.*targets\.json")


def test_targets_that_vanish_from_the_snapshot(thief: Thief, back_on_v1: None, refused: Refused) -> None:
    snapshot = thief.next(SNAPSHOT, lambda signed: signed.meta.pop("targets.json"))
    thief.name_snapshot(snapshot)
    refused(UpdateRefusedError, "(Repository|Deserialization)Error")


def test_freeze_with_the_clock_set_back(
    edge: Edge, device: DeviceClient, thief: Thief, refused: Refused, recovers: Recovers, clock: ManualClock
) -> None:
    """The device saw a time at which what it is shown had expired: while it only polled, before it wanted anything."""
    start = clock.now()
    newest = thief.path(TIMESTAMP).read_bytes()
    shutil.copy(device._updater._metadata / "timestamp.json", thief.path(TIMESTAMP))
    clock.advance(timedelta(days=31))
    device.poll()
    set_back(clock, start)
    refused(UpdateRefusedError, "ExpiredMetadata.*timestamp")
    thief.path(TIMESTAMP).write_bytes(newest)
    edge.repository(start + timedelta(days=31)).renew()
    recovers()


def set_back(clock: ManualClock, to: datetime) -> None:
    """What a clock never does by itself."""
    clock._now = to


def test_clock_that_was_far_ahead_does_not_starve_the_device(
    edge: Edge, device: DeviceClient, new_device: NewDevice, thief: Thief, clock: ManualClock
) -> None:
    start = clock.now()
    clock.advance(timedelta(days=20_000))
    device.poll()
    with pytest.raises(UpdateRefusedError, match="ExpiredMetadata"):
        device.update()
    works_on_v1(device, new_device())
    set_back(clock, start + timedelta(hours=1))
    edge.repository(clock.now()).withdraw(V1)  # a newer timestamp
    installed(device, V2)
    edge.offer(clock.now(), V1)
    shutil.rmtree(device.slots.standby().folder.parent)  # type: ignore[union-attr]
    for version in (V1, V2):  # and it can fetch again and again
        edge.assign(version)
        client = new_device()
        installed(client, version)
        shutil.rmtree(client.slots.standby().folder.parent)  # type: ignore[union-attr]


def test_mix_and_match_of_targets_from_another_time(thief: Thief, refused: Refused) -> None:
    """Targets of before, under the name of those that the snapshot asks for."""
    newest = thief.path(TARGETS)
    version = int(newest.name.split(".")[0])
    shutil.copy(newest.with_name(f"{version - 1}.targets.json"), newest)
    refused(UpdateRefusedError, "BadVersionNumber.*targets")


def test_mix_and_match_of_a_snapshot_from_another_time(thief: Thief, refused: Refused) -> None:
    newest = thief.path(SNAPSHOT)
    version = int(newest.name.split(".")[0])
    shutil.copy(newest.with_name(f"{version - 1}.snapshot.json"), newest)
    refused(UpdateRefusedError, "BadVersionNumber.*snapshot")


def test_mix_and_match_of_roles(thief: Thief, refused: Refused) -> None:
    """A snapshot in the timestamp's place, soundly signed."""
    shutil.copy(thief.path(SNAPSHOT), thief.path(TIMESTAMP))
    refused(UpdateRefusedError, "Expected 'timestamp'|RepositoryError")


def test_mix_and_match_of_archives(edge: Edge, thief: Thief, refused: Refused) -> None:
    """Sound metadata, and the archive of another model under the name that it asks for."""
    other, asked = (next(thief.targets.glob(f"*.{version}.tar.xz")) for version in (V1, V2))
    length = asked.stat().st_size
    asked.write_bytes(other.read_bytes().ljust(length, b"\0")[:length])
    refused(UpdateRefusedError, "LengthOrHashMismatch")


def test_another_models_archive_vouched_for_with_a_stolen_targets_key(thief: Thief, refused: Refused) -> None:
    thief.offer(V2, next(thief.targets.glob(f"*.{V1}.tar.xz")).read_bytes())
    refused(UpdateRefusedError, f"archive of {V2} holds '{V1}/")


def test_an_older_bundle_renamed_with_a_stolen_targets_key(edge: Edge, thief: Thief, refused: Refused) -> None:
    """V1 dressed up as V2, signature and all: it is not the bundle that was assigned."""
    from voice_pipeline.packaging.archive import pack

    folder = edge.settings.root / "dressed" / V2
    shutil.copytree(edge.settings.bundles / V1, folder)
    shutil.copy(edge.settings.bundles / f"{V1}.sig", folder.with_name(f"{V2}.sig"))
    thief.offer(V2, pack(folder, "x.tar.xz"))
    refused(UpdateRefusedError, "digest|signature")


# --- expiry ---


@EVERY_ROLE
def test_expired_metadata_stops_updates_and_nothing_else(
    edge: Edge, thief: Thief, refused: Refused, recovers: Recovers, clock: ManualClock, role: MetadataRole
) -> None:
    thief.expire(role, clock.now() + timedelta(days=3))
    clock.advance(timedelta(days=4))
    refused(UpdateRefusedError, f"ExpiredMetadata.*{role}")
    edge.repository(clock.now()).renew()
    recovers()


def test_metadata_that_expired_years_ago_does_not_brick_a_device(
    edge: Edge, device: DeviceClient, new_device: NewDevice, refused: Refused, recovers: Recovers, thief: Thief, clock
) -> None:  # type: ignore[no-untyped-def]
    clock.advance(timedelta(days=2_000))
    refused(UpdateRefusedError, "ExpiredMetadata")
    edge.repository(clock.now()).renew()
    recovers()


# --- roots ---


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
    device: DeviceClient, new_device: NewDevice, thief: Thief, recovers: Recovers, tmp_path
) -> None:  # type: ignore[no-untyped-def]
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
    edge: Edge, device: DeviceClient, new_device: NewDevice, thief: Thief, refused: Refused, recovers: Recovers, clock
) -> None:  # type: ignore[no-untyped-def]
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


# --- the device's own files ---


@pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "targets.json", "time.json", "root_history"])
def test_torn_metadata_on_the_device_is_fetched_again(
    device: DeviceClient, new_device: NewDevice, thief: Thief, recovers: Recovers, name: str
) -> None:
    """A power failure left half a file, or none."""
    path = device._updater._metadata / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    works_on_v1(new_device())
    recovers()


def test_a_server_that_is_down_is_no_reason_to_lose_the_model(
    edge: Edge, thief: Thief, refused: Refused, recovers: Recovers
) -> None:
    away = edge.served.with_name("away")
    edge.served.rename(away)
    refused(UpdateUnavailableError, "404")
    away.rename(edge.served)
    recovers()
