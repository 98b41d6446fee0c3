"""A device that dies at any of 200 random points of an update comes back with a verified model that works, and can
update then; a new device comes back with none or with its first one.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import pytest

from voice_pipeline.device.client import DeviceClient
from voice_pipeline.device.errors import NoModelError
from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.device import killed_update
from voice_pipeline_tests.device.conftest import PHONE, V1, V2, Edge
from voice_pipeline_tests.packaging.small_models import sign_small_bundle

ANYWHERE, BEFORE_SWAP, AFTER_SWAP = 20, 10, 10
"""Points of each of the five kinds of update: over all of it, the steps up to the swap, and over what follows."""
V4 = "m-20261102-00000004"
SPEECH = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
PRELOADED = ["voice_pipeline_tests.device.killed_update", "onnxruntime", "tuf.ngclient", "securesystemslib.signer"]
PRELOADED += ["voice_pipeline.speech.recogniser", "voice_pipeline.speech.decoder", "voice_pipeline.trust"]


@dataclass(frozen=True)
class Kind:
    """An update: what is installed, one after the other, the last one active; what is then assigned."""

    before: tuple[str, ...]
    model: str
    shadow: str | None = None


KINDS = {
    "first install": Kind((), V1),
    "next model": Kind((V1,), V2),
    "shadow": Kind((V1,), V1, shadow=V2),
    "rollback to the standby": Kind((V1, V2), V1),
    "standby replaced": Kind((V1, V2), V4),
}


@dataclass(frozen=True)
class World:
    """Runs updates in processes that die, and starts the device again afterwards."""

    edge: Edge
    http: httpx.Client
    clock: ManualClock
    folder: Path

    def start(self, home: Path) -> DeviceClient:
        root = self.edge.repository(self.clock.now()).trusted_root()
        return DeviceClient(home, self.edge.url, self.http, "device-0001", PHONE, root, self.clock)

    def prepared(self, kind: Kind) -> Path:
        """A device with what `kind` has before, told what comes."""
        home = self.folder / "before"
        client = self.start(home)
        for version in kind.before:
            self.edge.assign(version)
            client.poll()
            client.update()
        client.close()
        self.edge.assign(kind.model, shadow=kind.shadow)
        return home

    def killed(self, home: Path, die_at: int) -> None:
        """Update in a new process that dies at a step."""
        assert self._update(home, die_at) == -signal.SIGKILL

    def unharmed(self, home: Path) -> tuple[int, int]:
        """Update in a new process that lives: its number of steps, and which of them is the swap."""
        assert self._update(home, 0) == 0
        steps, swap = (self.folder / "steps").read_text().split()
        return int(steps), int(swap)

    def _update(self, home: Path, die_at: int) -> int | None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        root = self.edge.repository(self.clock.now()).trusted_root()
        arguments = (home, self.edge.url, PHONE, root, self.clock.now(), die_at, self.folder / "steps")
        process = context.Process(target=killed_update.update, args=arguments)
        process.start()
        process.join(60)
        return process.exitcode


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where that is possible: a killed process takes nothing with it that it had given to the kernel."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as made:
        yield Path(made)


@pytest.fixture
def world(edge: Edge, clock: ManualClock, http: httpx.Client, folder: Path) -> World:
    edge.manifests = {**edge.manifests, V4: sign_small_bundle(edge.settings, V4, 4, min_app="1.0.0")}
    edge.offer(clock.now(), V2, V4)
    return World(edge, http, clock, folder)


def points(steps: int, swap: int, seed: str) -> list[int]:
    """Distinct, in order. Dying at step n is dying before it is done: at `swap`, the swap has not happened."""
    rng = random.Random(seed)
    near = {*range(swap - BEFORE_SWAP + 1, swap + 1), *rng.sample(range(swap + 1, steps + 1), AFTER_SWAP)}
    return sorted({*near, *rng.sample(sorted(set(range(1, steps + 1)) - near), ANYWHERE)})


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_device_killed_at_any_point_of_an_update_always_holds_a_verified_working_model(
    world: World, kind: Kind, folder: Path
) -> None:
    before = world.prepared(kind)
    before.mkdir(exist_ok=True)
    unharmed = folder / "unharmed"
    for _ in range(2):  # the first one alone finds caches cold
        shutil.rmtree(unharmed, ignore_errors=True)
        shutil.copytree(before, unharmed, symlinks=True)
        steps, swap = world.unharmed(unharmed)
    finished = world.start(unharmed)
    texts = {kind.model: finished.transcribe(SPEECH).text}
    chosen = points(steps, swap, kind.model + str(kind.shadow))
    assert len(chosen) == ANYWHERE + BEFORE_SWAP + AFTER_SWAP
    found = []
    for die_at in chosen:
        home = folder / f"killed-{die_at}"
        shutil.copytree(before, home, symlinks=True)
        world.killed(home, die_at)
        revived = world.start(home)
        found.append(_held(revived, kind, texts))
        _next_try_succeeds(revived, home, kind, texts)
        shutil.rmtree(home)
    former = kind.before[-1] if kind.before else None
    assert set(found) <= {former, kind.model}, found
    swaps = found.index(kind.model) if kind.model in found else len(found)
    assert found == [former] * swaps + [kind.model] * (len(found) - swaps), "the swap is one step"
    assert kind.model in found, "none died after the swap"


def _held(client: DeviceClient, kind: Kind, texts: dict[str, str]) -> str | None:
    """What a device that died runs, before it asks anybody; None: nothing, which only a new device may."""
    try:
        heard = client.transcribe(SPEECH)
    except NoModelError:
        assert not kind.before, "a device that had a model has none"
        return None
    assert texts.setdefault(heard.model_version, heard.text) == heard.text
    return heard.model_version


def _next_try_succeeds(client: DeviceClient, home: Path, kind: Kind, texts: dict[str, str]) -> None:
    client.poll()
    client.update()
    heard = client.transcribe(SPEECH)
    assert (heard.model_version, heard.text) == (kind.model, texts[kind.model])
    assert (client.shadow.model_version if client.shadow else None) == kind.shadow
    assert not [*(home / "slots").glob("staging-*"), *(home / "slots").glob("trash-*")]
    client.close()


def test_device_killed_twice_during_its_first_update_still_gets_its_first_model(world: World, folder: Path) -> None:
    world.edge.assign(V1)
    steps, _ = world.unharmed(folder / "unharmed")
    texts = {V1: world.start(folder / "unharmed").transcribe(SPEECH).text}
    home = folder / "new"
    for share in (0.5, 0.95):
        world.killed(home, int(steps * share))
    _next_try_succeeds(world.start(home), home, KINDS["first install"], texts)
