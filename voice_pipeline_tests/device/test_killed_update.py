"""A device that dies at any step of an update comes back with a verified model that works, and can update then."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from voice_pipeline.device.client import DeviceClient
from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.device import killed_update
from voice_pipeline_tests.device.conftest import PHONE, V1, V2, Edge

ANYWHERE, LAST_STEPS = 14, 6
SPEECH = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
PRELOADED = ["voice_pipeline_tests.device.killed_update", "onnxruntime", "tuf.ngclient", "model_signing.verifying"]


@pytest.fixture
def run(edge: Edge, clock: ManualClock, tmp_path: Path) -> Callable[[Path, int], int]:
    """Update `home` in a new process that dies at a step (0: never); gives the number of steps of a full update."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    root = edge.repository(clock.now()).trusted_root()

    def updated(home: Path, die_at: int) -> int:
        log = tmp_path / "steps"
        log.unlink(missing_ok=True)
        arguments = (home, edge.url, PHONE, root, clock.now(), die_at, log)
        process = context.Process(target=killed_update.update, args=arguments)
        process.start()
        process.join(60)
        assert process.exitcode == (-signal.SIGKILL if die_at else 0)
        return 0 if die_at else int(log.read_text())

    return updated


def revived(home: Path, edge: Edge, http: httpx.Client, clock: ManualClock) -> DeviceClient:
    root = edge.repository(clock.now()).trusted_root()
    return DeviceClient(home, edge.url, http, "device-0001", PHONE, root, clock)


def test_device_killed_at_any_step_of_an_update_always_holds_a_verified_working_model(
    edge: Edge, device: DeviceClient, clock: ManualClock, http: httpx.Client, tmp_path: Path, run
) -> None:  # type: ignore[no-untyped-def]
    device.close()
    before = tmp_path / "device"
    edge.offer(clock.now(), V2)
    edge.assign(V2)
    unharmed = tmp_path / "unharmed"
    shutil.copytree(before, unharmed, symlinks=True)
    steps = run(unharmed, 0)
    assert revived(unharmed, edge, http, clock).recogniser.model_version == V2
    found = []
    anywhere = random.Random(7).sample(range(1, steps - LAST_STEPS), ANYWHERE)
    for die_at in [*sorted(anywhere), *range(steps - LAST_STEPS, steps + 1)]:
        home = tmp_path / f"killed-{die_at}"
        shutil.copytree(before, home, symlinks=True)
        run(home, die_at)
        client = revived(home, edge, http, clock)
        found.append(client.recogniser.model_version)
        assert found[-1] in (V1, V2), f"killed at step {die_at} of {steps}"
        client.transcribe(SPEECH)
        client.poll()
        client.update()
        assert client.recogniser.model_version == V2
        assert not [*(home / "slots").glob("staging-*"), *(home / "slots").glob("trash-*")]
        client.close()
        shutil.rmtree(home)
    assert set(found) == {V1, V2}  # some died before the swap, some after
    assert found == sorted(found)  # the swap is one step


def test_device_killed_twice_during_its_first_update_still_gets_its_first_model(
    edge: Edge, clock: ManualClock, http: httpx.Client, tmp_path: Path, run
) -> None:  # type: ignore[no-untyped-def]
    steps = run(tmp_path / "unharmed", 0)
    home = tmp_path / "new"
    for share in (0.5, 0.95):
        run(home, int(steps * share))
    client = revived(home, edge, http, clock)
    client.poll()
    client.update()
    assert client.recogniser.model_version == V1
    client.close()
