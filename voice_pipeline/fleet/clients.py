"""The devices of a simulated fleet that are a `DeviceClient` from end to end, with slots, lease and outbox each.

One of each device class shows the whole life of an update; so do the first device that tries a candidate, and every
device whose app is too old for all models: what its person says goes through its client, which asks the edge if the
person allows that. A device that is one of them stays one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from voice_pipeline.device.client import DeviceClient
from voice_pipeline.device.clock import Clock
from voice_pipeline.device.dictation import Dictation
from voice_pipeline.device.errors import DeviceError, NoModelError
from voice_pipeline.fleet.scenario import FleetClip, Person, Population
from voice_pipeline.schema.clip import DeviceContext
from voice_pipeline.schema.inference import InferenceMode
from voice_pipeline.schema.telemetry import TelemetryEvent
from voice_pipeline.trust import TrustError

if TYPE_CHECKING:
    import httpx

OLD_APP = "0.9.0"


@dataclass(frozen=True)
class Device:
    """One installation in one person's hands."""

    device_id: str
    person: Person
    context: DeviceContext


def draw_device(number: int, population: Population, rng: random.Random) -> Device:
    """An installation of the newest app."""
    person, context = population.draw(rng)
    return Device(f"device-{number:04d}", person, context)


def draw_left_behind(number: int, population: Population, rng: random.Random) -> Device:
    """A device that was never updated, in the hands of somebody who does not mind the edge listening."""
    device = draw_device(number, population, rng)
    context = device.context.model_copy(update={"app_version": OLD_APP})
    return replace(device, person=replace(device.person, remote_allowed=True), context=context)


class FullClients:
    """Args:
    root: a folder a device.
    trusted_root: gives the root that an app ships with; asked when a device first needs it.
    clock: that of the fleet's current tick.
    """

    def __init__(
        self, root: Path, edge_url: str, http: httpx.Client, trusted_root: Callable[[], bytes], clock: Clock
    ) -> None:
        self._root = root
        self._edge_url = edge_url
        self._http = http
        self._trusted_root = trusted_root
        self._clock = clock
        self._clients: dict[str, DeviceClient] = {}

    def update(self, devices: Iterable[Device]) -> dict[str, str]:
        """Each asks, fetches, verifies and swaps for itself; why not, by device id."""
        refused = {}
        for device in devices:
            client = self._of(device)
            try:
                client.poll()
                client.update()
            except (DeviceError, TrustError) as error:
                refused[device.device_id] = str(error)
        return refused

    def holds(self, device_id: str) -> bool:
        """Whether this device is one of them."""
        return device_id in self._clients

    def answering(self, devices: Iterable[Device]) -> dict[str, str]:
        """Each device of these that is one of them asks and swaps, and hears a clip; which model on it answered, by
        device id. One that cannot answer by itself is left out.
        """
        mine = [device for device in devices if self.holds(device.device_id)]
        self.update(mine)
        heard = {device.device_id: self.dictate(device, device.person.clips[0]) for device in mine}
        own = {name: told for name, told in heard.items() if told and told.answered is InferenceMode.LOCAL}
        return {name: told.model_version for name, told in own.items()}

    def dictate(self, device: Device, clip: FleetClip) -> Dictation | None:
        """What the device's own client makes of a clip; None where nobody may or can answer."""
        samples, _measures = clip.heard()
        try:
            return self._of(device).transcribe(samples)
        except NoModelError:
            return None

    def report(self, events: Sequence[TelemetryEvent]) -> list[TelemetryEvent]:
        """Send these devices' events through their outboxes; returns the events of the others."""
        for device_id, client in self._clients.items():
            client.report([event for event in events if event.device_id == device_id])
            client.flush()
        return [event for event in events if event.device_id not in self._clients]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def _of(self, device: Device) -> DeviceClient:
        if device.device_id not in self._clients:
            home = self._root / device.device_id
            told = (device.device_id, device.context, self._trusted_root(), self._clock)
            self._clients[device.device_id] = DeviceClient(home, self._edge_url, self._http, *told)
        client = self._clients[device.device_id]
        client.context = device.context
        client.remote_allowed = device.person.remote_allowed
        return client
