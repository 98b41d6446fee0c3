"""Each test plays an attack on the repository's metadata, some with stolen keys; the device goes on with V1, and takes
V2 as soon as the attack is over.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta

import pytest

from voice_pipeline.device.client import DeviceClient
from voice_pipeline.device.errors import UpdateRefusedError, UpdateUnavailableError
from voice_pipeline.packaging.keys import make_key
from voice_pipeline.packaging.metadata_chain import ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from voice_pipeline.packaging.rotation import rotate
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
    set_clock_back,
    thief,
    works_on_v1,
)
from voice_pipeline_tests.device.conftest import V1, V2, Edge
from voice_pipeline_tests.device.thief import Thief

__all__ = ["device", "edge", "prepared", "recovers", "refused", "thief"]
Recovers = Callable[[], None]
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
    set_clock_back(clock, start)
    refused(UpdateRefusedError, "ExpiredMetadata.*timestamp")
    thief.path(TIMESTAMP).write_bytes(newest)
    edge.repository(start + timedelta(days=31)).renew()
    recovers()


def test_clock_that_was_far_ahead_does_not_starve_the_device(
    edge: Edge, device: DeviceClient, new_device: NewDevice, thief: Thief, clock: ManualClock
) -> None:
    start = clock.now()
    clock.advance(timedelta(days=20_000))
    device.poll()
    with pytest.raises(UpdateRefusedError, match="ExpiredMetadata"):
        device.update()
    works_on_v1(device, new_device())
    set_clock_back(clock, start + timedelta(hours=1))
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
    """V1 dressed up as V2, signature and all: its manifest tells what it is."""
    from voice_pipeline.packaging.archive import pack

    folder = edge.settings.root / "dressed" / V2
    shutil.copytree(edge.settings.bundles / V1, folder)
    shutil.copy(edge.settings.bundles / f"{V1}.sig", folder.with_name(f"{V2}.sig"))
    thief.offer(V2, pack(folder, "x.tar.xz"))
    refused(UpdateRefusedError, f"{V2} is of model {V1}")


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
