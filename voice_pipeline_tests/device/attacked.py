"""What every attack on an update has in common: V2 is on offer and assigned, and V1 has to survive."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest

from voice_pipeline.device.client import DeviceClient
from voice_pipeline.device.errors import DeviceError
from voice_pipeline.device.updater import BundleUpdater
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.settings import Settings, load_settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.device.conftest import PHONE, V1, V2, Edge, serving
from voice_pipeline_tests.device.hostile import Hostile, between
from voice_pipeline_tests.device.thief import Thief

SPEECH = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
NewDevice = Callable[[], DeviceClient]
Refused = Callable[[type[DeviceError], str], None]


def works_on_v1(*clients: DeviceClient) -> None:
    """V1 is active, verifies and recognises."""
    for client in clients:
        assert client.recogniser.model_version == V1
        client.transcribe(SPEECH)


def set_clock_back(clock: ManualClock, to: datetime) -> None:
    """What a manual clock never does by itself."""
    clock._now = to


@pytest.fixture(scope="session")
def prepared(
    publisher: tuple[Settings, dict[str, BundleManifest]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Homes to copy: a publisher that offers V1 and V2, a device that took V1 before V2 was there."""
    folder = tmp_path_factory.mktemp("prepared")
    shutil.copytree(publisher[0].root, folder / "publisher")
    made = Edge(load_settings(folder / "publisher"), publisher[1])
    clock = ManualClock(datetime(2026, 11, 2, 9, tzinfo=UTC))
    made.offer(clock.now(), V1)
    made.assign(V1)
    root = made.repository(clock.now()).trusted_root()
    with serving(made), httpx.Client(timeout=5) as http:
        client = DeviceClient(folder / "device", made.url, http, "device-0001", PHONE, root, clock)
        client.poll()
        client.update()
        client.close()
    made.offer(clock.now(), V2)
    return made.settings.root, folder / "device"


@pytest.fixture
def edge(
    prepared: tuple[Path, Path], publisher: tuple[Settings, dict[str, BundleManifest]], tmp_path: Path
) -> Iterator[Edge]:
    """A running edge with V1 and V2 on offer and V2 assigned."""
    shutil.copytree(prepared[0], tmp_path / "publisher")
    made = Edge(load_settings(tmp_path / "publisher"), publisher[1])
    made.assign(V2)
    with serving(made):
        yield made


@pytest.fixture
def device(prepared: tuple[Path, Path], new_device: NewDevice, tmp_path: Path) -> DeviceClient:
    """A device with V1 installed and active, that has not looked since."""
    shutil.copytree(prepared[1], tmp_path / "device", symlinks=True)
    return new_device()


@pytest.fixture
def thief(edge: Edge, device: DeviceClient) -> Thief:
    """Somebody who holds the publisher's keys."""
    return Thief(edge.settings)


@pytest.fixture
def hostile(edge: Edge, device: DeviceClient, thief: Thief) -> Iterator[Hostile]:
    """Somebody stands between the device and the repository; nothing is spoilt yet."""
    with between(edge.served) as made:
        hurry(device, made.url, seconds=60)
        yield made


def hurry(device: DeviceClient, url: str, seconds: float) -> None:
    """The device fetches from `url`, and gives up after `seconds`."""
    former = device._updater
    arguments = (former._http, former._shipped, former._clock, seconds)
    device._updater = BundleUpdater(former._metadata.parent, url, *arguments)


@pytest.fixture
def refused(device: DeviceClient, new_device: NewDevice) -> Refused:
    """Asserts that the update raises that error, and that V1 is active and works, now and after a restart."""

    def check(error: type[DeviceError], match: str) -> None:
        device.poll()
        with pytest.raises(error, match=match):
            device.update()
        works_on_v1(device, new_device())

    return check


@pytest.fixture
def recovers(new_device: NewDevice) -> Callable[[], None]:
    """Asserts that after the attack a restarted device takes V2."""

    def check() -> None:
        client = new_device()
        client.poll()
        client.update()
        assert client.recogniser.model_version == V2

    return check
