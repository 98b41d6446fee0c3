"""Each test plays an attack on the way between repository and device: endless, slow, cut and misplaced answers."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from voice_pipeline.device.client import DeviceClient
from voice_pipeline.device.errors import UpdateRefusedError, UpdateUnavailableError
from voice_pipeline.device.fetching import LIMITS
from voice_pipeline_tests.device import attacked
from voice_pipeline_tests.device.attacked import Refused, device, edge, hostile, prepared, recovers, refused, thief
from voice_pipeline_tests.device.conftest import V2, Edge
from voice_pipeline_tests.device.hostile import (
    PIECE,
    Hostile,
    Spoil,
    cut,
    endless,
    endless_chunks,
    instead,
    moved_to,
    silence,
    trickle_body,
    trickle_headers,
)

__all__ = ["device", "edge", "hostile", "prepared", "recovers", "refused", "thief"]
Recovers = Callable[[], None]

ARCHIVE = f"{V2}.tar.xz"
FILES = ["2.root.json", "timestamp.json", ".snapshot.json", ".targets.json", ARCHIVE]
BOUNDS = {
    "2.root.json": LIMITS.root_max_length,
    "timestamp.json": LIMITS.timestamp_max_length,
    ".snapshot.json": LIMITS.snapshot_max_length,
    ".targets.json": LIMITS.targets_max_length,
}
IN_FLIGHT = 8_000_000
"""Bytes that sockets and queues of one machine hold between the attacker's writing and the device's hanging up."""

EVERY_FILE = pytest.mark.parametrize("name", FILES)


@EVERY_FILE
@pytest.mark.parametrize("attack", [endless, endless_chunks])
def test_endless_data_is_cut_off(
    hostile: Hostile, refused: Refused, recovers: Recovers, edge: Edge, name: str, attack: Spoil
) -> None:
    hostile.spoil[name] = attack
    refused(UpdateUnavailableError, "exceeding the maximum allowed length")
    honest = sum(path.stat().st_size for path in edge.served.rglob("*") if path.is_file())
    assert hostile.sent < honest + BOUNDS.get(name, 0) + IN_FLIGHT + len(PIECE)
    recovers()


@EVERY_FILE
def test_slow_retrieval_is_given_up(
    hostile: Hostile, device: DeviceClient, refused: Refused, recovers: Recovers, name: str
) -> None:
    """A byte every 20 ms: no timeout between two bytes ever fires."""
    attacked.hurry(device, hostile.url, seconds=0.4)
    hostile.spoil[name] = trickle_body
    started = time.monotonic()
    refused(UpdateUnavailableError, r"not there after the 0\.4 s")
    assert time.monotonic() - started < 5
    recovers()


@pytest.mark.parametrize("attack", [trickle_headers, silence])
def test_answer_that_never_begins_is_given_up(
    hostile: Hostile, device: DeviceClient, refused: Refused, recovers: Recovers, attack: Spoil
) -> None:
    attacked.hurry(device, hostile.url, seconds=0.4)
    hostile.spoil["timestamp.json"] = attack
    refused(UpdateUnavailableError, r"not there after the 0\.4 s")
    recovers()


def test_the_deadline_is_for_all_files_together(hostile: Hostile, device: DeviceClient, refused: Refused) -> None:
    """Each file alone would be there in time."""
    attacked.hurry(device, hostile.url, seconds=0.6)

    def slow(handler, data: bytes) -> None:  # type: ignore[no-untyped-def]
        time.sleep(0.35)
        instead(data)(handler, data)

    hostile.spoil.update(dict.fromkeys(FILES[1:], slow))
    refused(UpdateUnavailableError, r"not there after the 0\.6 s")


@EVERY_FILE
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_connection_cut(
    hostile: Hostile, device: DeviceClient, refused: Refused, recovers: Recovers, name: str, share: float
) -> None:
    hostile.spoil[name] = cut(share)
    if name == "2.root.json":
        hostile.spoil[name] = lambda handler, _data: cut(share)(handler, b"x" * 2_000)
    refused(UpdateUnavailableError, "cannot be read: RemoteProtocolError")
    recovers()


@pytest.mark.parametrize("length", [0, 1, 6, 31, 10_000, -1])
def test_truncated_archive_of_that_very_length(
    hostile: Hostile, edge: Edge, refused: Refused, recovers: Recovers, length: int
) -> None:
    """The server says that this is all there is."""
    data = next((edge.served / "targets").glob(f"*.{ARCHIVE}")).read_bytes()
    hostile.spoil[ARCHIVE] = instead(data[:length])
    refused(UpdateRefusedError, "LengthOrHashMismatch")
    recovers()


@pytest.mark.parametrize("name", FILES[1:])
def test_redirect_is_not_followed(
    hostile: Hostile, edge: Edge, refused: Refused, recovers: Recovers, name: str
) -> None:
    hostile.spoil[name] = moved_to(f"{edge.url}/tuf/metadata/timestamp.json")
    refused(UpdateUnavailableError, "answered 302")
    recovers()


def test_nobody_is_there(edge: Edge, device: DeviceClient, refused: Refused, recovers: Recovers) -> None:
    attacked.hurry(device, "http://127.0.0.1:9", seconds=60)
    refused(UpdateUnavailableError, "ConnectError")
    recovers()
