"""How long a harmful canary stays on devices: from the first harmful report to the last device on the model before.

A round: half of the devices are moved to a canary; then each device on it reports four dictations that went wrong, at
its next poll; the rollout sensor sees it and rolls back; each device learns of it at its next poll, swaps to the model
in its other slot, verifies that, and answers with it. Two spans are taken of each exposed device:
- *after the batch*: since the first harmful batch was sent that the edge accepted. At most about a sensor interval and
  a poll interval, and the moment in which enough devices have reported for harm to be certain.
- *after the write*: since the time on the `rolled_back` line of the ledger. At most about a poll interval.

What is real: the edge over loopback, OFREP with ETags, `DeviceClient` on every device with slots, lease and outbox of
its own, and `rollout_sensor`, evaluated by the conductor in the rhythm that the sensor asks of the daemon
(`minimum_interval_seconds`; the daemon itself, which adds a second or so, is not started). Edge and sensor are
processes of their own, as in an installation; the devices share a third. Time is real time. What is made up: the
networks (`rollback_home`), the figures reported, and the poll interval, which is that of no real app: a device that
polls once an hour comes back within the hour, or when its lease lapses. All of it shares one host's cores.
"""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from voice_pipeline.rollback_home import CANARY, LIVE, found_home, start_canary
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.schema.telemetry import TelemetryEvent
from voice_pipeline.settings import Settings
from voice_pipeline.store.releases import find_release
from voice_pipeline.store.store import Store

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.sharedctypes import Synchronized
    from multiprocessing.synchronize import Event

    import httpx

    from voice_pipeline.device.client import DeviceClient

DEVICES, ROUNDS, POLL_S = 200, 6, 10.0
JITTER = 0.1
DICTATIONS, WORDS = 4, 10
PATIENCE_S = 120.0
"""Beyond the intervals; a round that takes longer is an error, not a figure."""


class RollbackBenchError(ValueError):
    """A round did not come to its end; the message says what was waited for."""


@dataclass(frozen=True)
class RollbackTimes:
    """Seconds, one of each exposed device in each round."""

    after_batch: tuple[float, ...]
    after_write: tuple[float, ...]
    poll_s: float
    sensor_s: float

    def told(self) -> str:
        """Both spans in a line."""
        spans = (("first harmful batch", self.after_batch), ("ledger line", self.after_write))
        figures = [f"{_percentiles(seconds)} s after the {name}" for name, seconds in spans]
        return (
            f"back on the model before (p50 / p99 / last of {len(self.after_batch)} devices): {'; '.join(figures)} "
            f"(sensor every {self.sensor_s:g} s, polls every {self.poll_s:g} s)"
        )


def measure_rollback(
    policy_dir: Path,
    devices: int = DEVICES,
    rounds: int = ROUNDS,
    poll_s: float = POLL_S,
    sensor_s: float | None = None,
    seed: int = 1,
) -> RollbackTimes:
    """Play `rounds` rollbacks in a temporary home under the release policy of `policy_dir`.

    Harm begins at another moment between two sensor ticks in each round, spread evenly.

    Args:
        sensor_s: seconds between ticks; None takes the sensor's own interval.

    Raises:
        RollbackBenchError: devices did not follow, or harm was not rolled back.
        DeviceError: a device could not fetch or run a bundle.
    """
    from voice_pipeline.release.sensors import rollout_sensor

    interval = sensor_s or float(rollout_sensor.minimum_interval_seconds or 30)
    with tempfile.TemporaryDirectory() as folder:
        store = found_home(Path(folder) / "home", policy_dir)
        with (
            _installation(store.settings, interval) as running,
            _field(store, running, Path(folder) / "devices", devices, poll_s, seed) as field_,
        ):
            times = [_round(field_, (number + 0.5) / rounds) for number in range(rounds)]
    batch, write = ([seconds for one in times for seconds in one[which]] for which in (0, 1))
    return RollbackTimes(tuple(batch), tuple(write), poll_s, interval)


def _round(field_: _Field, phase: float) -> tuple[list[float], list[float]]:
    """One canary, from its start to the last device back; (after the batch, after the write), in seconds."""
    from voice_pipeline.release.assignment import assign

    store = field_.store
    field_.wait_for("all devices to run the live model", lambda: field_.running(LIVE) == set(field_.phones))
    field_.begin()
    canary = start_canary(store)
    exposed = {one for one in field_.phones if assign(store, one, APP).model_version == CANARY}
    field_.wait_for(f"{len(exposed)} devices to run the canary", lambda: field_.running(CANARY) == exposed)
    field_.wait_for("the others to have reported", lambda: field_.reported(LIVE) >= set(field_.phones) - exposed)
    field_.sleep_to_phase(phase)
    field_.harm.set()
    field_.wait_for("all devices to be back", lambda: field_.running(LIVE) == set(field_.phones))
    view = find_release(store, canary.release_id)
    if view is None or view.state is not ReleaseState.ROLLED_BACK:
        raise RollbackBenchError(f"devices left {canary.release_id}, which was not rolled back")
    sent, written = field_.first_harmful(), datetime.fromisoformat(view.entered_at)
    back = [field_.phones[one].since for one in sorted(exposed)]
    return [(at - sent).total_seconds() for at in back], [(at - written).total_seconds() for at in back]


APP = "999.0.0"


@dataclass
class _Phone:
    """One device's client and what it does at each poll.

    Attributes:
        answers: model version that its recogniser has, "" before the first.
        since: when it first answered with it.
        reported: when it sent this round's dictations, by the model that heard them.
    """

    client: DeviceClient
    store: Store
    answers: str = ""
    since: datetime = datetime.min
    reported: dict[str, datetime] = field(default_factory=dict)

    def step(self, harm: threading.Event) -> None:
        """Poll, swap if told so, and report once a round and model: of the canary only once harm begins."""
        self.client.poll()
        self.client.update()
        answers = self.client.recogniser.model_version
        if answers != self.answers:
            self.answers, self.since = answers, self.store.now()
        if answers not in self.reported and (harm.is_set() or answers == LIVE):
            sent = self.store.now()
            self.client.report([_dictation(self, number, sent) for number in range(DICTATIONS)])
            if self.client.flush().sent != DICTATIONS:
                raise RollbackBenchError(f"the edge took fewer than {DICTATIONS} events of {self.client.device_id}")
            self.reported[answers] = sent


def _dictation(phone: _Phone, number: int, at: datetime) -> TelemetryEvent:
    """Right on LIVE, wrong in every word and slow on CANARY."""
    wrong = phone.answers == CANARY
    device_id = phone.client.device_id
    return TelemetryEvent(
        event_id=f"{device_id}-{at:%Y%m%dT%H%M%S%f}-{number}",
        device_id=device_id,
        at=at,
        context=phone.client.context,
        model_version=phone.answers,
        words=WORDS,
        corrected_words=WORDS if wrong else 0,
        confidence=0.8,
        latency_ms=400.0 if wrong else 20.0,
        duration_s=2.0,
        snr_db=20,
        loudness_dbfs=-20,
        clipping=0,
        speaking_rate=10,
        spectral_tilt=-3,
        band_low=0.3,
        band_mid=0.4,
        band_high=0.3,
    )


@dataclass(frozen=True)
class _Installation:
    """The edge at `url` and the sensor, which ticks every `interval` seconds, the last time at `began` (monotonic)."""

    url: str
    interval: float
    began: Synchronized[float]
    processes: tuple[SpawnProcess, ...]

    def check(self) -> None:
        """Raises:
        RollbackBenchError: one of its processes ended.
        """
        for process in self.processes:
            if not process.is_alive():
                raise RollbackBenchError(f"the process of the {process.name} ended with {process.exitcode}")


@contextmanager
def _installation(settings: Settings, interval: float) -> Iterator[_Installation]:
    spawn = multiprocessing.get_context("spawn")
    urls, began, stop = spawn.SimpleQueue(), spawn.Value("d", 0.0), spawn.Event()
    edge = spawn.Process(target=_serve, args=(settings, urls, stop), name="edge", daemon=True)
    sensor = spawn.Process(target=_watch, args=(settings, interval, began, stop), name="sensor", daemon=True)
    running = _Installation("", interval, began, (edge, sensor))
    try:
        for process in running.processes:
            process.start()
        while urls.empty() or not began.value:
            running.check()
            time.sleep(0.05)
        yield replace(running, url=urls.get())
    finally:
        stop.set()
        for process in running.processes:
            process.join(timeout=60)


def _serve(settings: Settings, urls: SimpleQueue[str], stop: Event) -> None:
    """The edge's process."""
    from voice_pipeline.edge.server import EdgeServer

    with EdgeServer(Store.open(settings), port=0) as edge:
        urls.put(edge.url)
        stop.wait()


def _watch(settings: Settings, interval: float, began: Synchronized[float], stop: Event) -> None:
    """The sensor's process: the next tick begins `interval` seconds after the last one began, or when that one ends."""
    from voice_pipeline.conductor import standalone

    with standalone(Store.open(settings)) as conductor:
        sensor = next(one for one in conductor.sensors() if one.name == "rollout_sensor")
        wait = 0.0
        while not stop.wait(wait):
            began.value = time.monotonic()
            conductor.tick(sensor)
            wait = max(0.0, began.value + interval - time.monotonic())


class _Field:
    """All phones, each living in a thread of its own."""

    def __init__(
        self, store: Store, running: _Installation, phones: Sequence[_Phone], poll_s: float, seed: int
    ) -> None:
        self.store = store
        self._running = running
        self.phones = {phone.client.device_id: phone for phone in phones}
        self.harm = threading.Event()
        self._poll_s = poll_s
        self._seed = seed
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(len(phones))
        self._lives: list[Future[None]] = [self._pool.submit(self._live, phone) for phone in phones]

    def begin(self) -> None:
        """A new round, before its canary starts: nobody reported in it yet, nothing is wrong yet."""
        self.harm.clear()
        for phone in self.phones.values():
            phone.reported = {}

    def running(self, model_version: str) -> set[str]:
        return {name for name, phone in self.phones.items() if phone.answers == model_version}

    def reported(self, model_version: str) -> set[str]:
        return {name for name, phone in self.phones.items() if model_version in phone.reported}

    def first_harmful(self) -> datetime:
        """When the first report of harm in this round went out."""
        return min(phone.reported[CANARY] for phone in self.phones.values() if CANARY in phone.reported)

    def wait_for(self, what: str, happened: Callable[[], bool]) -> None:
        """Raises:
        RollbackBenchError: it does not happen within the intervals and `PATIENCE_S`.
        """
        deadline = time.monotonic() + self._poll_s + self._running.interval + PATIENCE_S
        while not happened():
            self._running.check()
            for life in self._lives:
                if life.done():
                    life.result()
            if time.monotonic() > deadline:
                raise RollbackBenchError(
                    f"waited {PATIENCE_S:g} s and both intervals for {what}; is the host too busy?"
                )
            time.sleep(0.05)

    def sleep_to_phase(self, phase: float) -> None:
        """Until `phase` (a share of the sensor's interval) after a tick begins."""
        interval = self._running.interval
        passed = (time.monotonic() - self._running.began.value - phase * interval) % interval
        time.sleep(interval - passed)

    def close(self) -> None:
        self._stop.set()
        self._pool.shutdown()
        for phone in self.phones.values():
            phone.client.close()

    def _live(self, phone: _Phone) -> None:
        rng = random.Random(f"{self._seed}|{phone.client.device_id}")
        wait = rng.uniform(0, self._poll_s)
        while not self._stop.wait(wait):
            phone.step(self.harm)
            wait = self._poll_s * rng.uniform(1 - JITTER, 1 + JITTER)


@contextmanager
def _field(
    store: Store, running: _Installation, root: Path, devices: int, poll_s: float, seed: int
) -> Iterator[_Field]:
    import httpx

    from voice_pipeline.packaging.repository import UpdateRepository

    trusted = UpdateRepository(store.settings, store.now()).trusted_root()
    with httpx.Client(timeout=60) as http:
        phones = [_phone(store, running.url, http, root / f"phone-{number:03d}", trusted) for number in range(devices)]
        made = _Field(store, running, phones, poll_s, seed)
        try:
            yield made
        finally:
            made.close()


def _phone(store: Store, url: str, http: httpx.Client, home: Path, trusted_root: bytes) -> _Phone:
    from voice_pipeline.device.client import DeviceClient
    from voice_pipeline.schema.clip import UNKNOWN_DEVICE

    context = UNKNOWN_DEVICE.model_copy(update={"app_version": APP})
    return _Phone(DeviceClient(home, url, http, home.name, context, trusted_root, store.clock), store)


def _percentiles(seconds: Sequence[float]) -> str:
    import numpy as np

    return " / ".join(f"{value:.1f}" for value in (*np.percentile(seconds, [50, 99]), max(seconds)))
