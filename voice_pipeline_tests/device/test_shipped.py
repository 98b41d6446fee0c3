"""A bundle that came with the app: trusted no more than any other, there when nothing else is."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from voice_pipeline.device.client import DeviceClient
from voice_pipeline.device.errors import NoModelError, StorageError, UpdateUnavailableError
from voice_pipeline.packaging.signing import sign_folder
from voice_pipeline.settings import load_settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.device.conftest import PHONE, V1, V2, V3, Edge

SPEECH = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
AWAY = "http://127.0.0.1:9"
Start = Callable[..., DeviceClient]


@pytest.fixture
def app(edge: Edge, tmp_path: Path, clock: ManualClock) -> Path:
    """What an app build carries: V1, its signature, and the root."""
    folder = tmp_path / "app"
    shutil.copytree(edge.settings.bundles / V1, folder / V1)
    shutil.copy(edge.settings.bundles / f"{V1}.sig", folder)
    (folder / "root.json").write_bytes(edge.repository(clock.now()).trusted_root())
    return folder


@pytest.fixture
def start(app: Path, tmp_path: Path, http: httpx.Client, clock: ManualClock) -> Start:
    def started(url: str = AWAY) -> DeviceClient:
        root = (app / "root.json").read_bytes()
        return DeviceClient(tmp_path / "device", url, http, "device-0001", PHONE, root, clock, shipped=app)

    return started


def spoil(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def test_a_first_start_without_network_installs_what_came_with_the_app(start: Start, app: Path) -> None:
    device = start()
    assert device.transcribe(SPEECH).model_version == V1
    active = device.slots.active()
    assert active is not None
    assert app not in active.folder.parents
    shutil.rmtree(app / V1)
    assert start().transcribe(SPEECH).model_version == V1


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json", "tokenizer.json"])
def test_it_passes_the_whole_gate_or_is_not_run(start: Start, app: Path, file: str) -> None:
    spoil(app / V1 / file)
    device = start()
    with pytest.raises(NoModelError, match=V1):
        device.transcribe(SPEECH)
    assert device.slots.active() is None
    assert device.slots.standby() is None


def test_one_that_somebody_else_signed_is_not_run(start: Start, app: Path, tmp_path: Path) -> None:
    sign_folder(app / V1, load_settings(tmp_path / "somebody").keys)
    with pytest.raises(NoModelError, match="must not be used"):
        start().transcribe(SPEECH)


def test_one_that_needs_a_newer_app_is_not_run(start: Start, app: Path, edge: Edge) -> None:
    shutil.rmtree(app / V1)
    shutil.copytree(edge.settings.bundles / V3, app / V3)
    shutil.copy(edge.settings.bundles / f"{V3}.sig", app)
    with pytest.raises(NoModelError, match=r"needs app 9\.0\.0"):
        start().transcribe(SPEECH)


def test_it_is_the_last_resort_when_neither_slot_verifies(start: Start, edge: Edge, clock: ManualClock) -> None:
    edge.offer(clock.now(), V2)
    edge.assign(V2)
    device = start(edge.url)
    assert device.transcribe(SPEECH).model_version == V1
    device.poll()
    device.update()
    assert device.transcribe(SPEECH).model_version == V2
    for bundle in (device.slots.active(), device.slots.standby()):
        spoil(bundle.folder / "model.onnx")  # type: ignore[union-attr]
    again = start()
    assert again.transcribe(SPEECH).model_version == V1
    assert again.slots.active().model_version == V1  # type: ignore[union-attr]


def test_while_a_slot_verifies_it_is_left_alone(start: Start, edge: Edge, clock: ManualClock) -> None:
    edge.offer(clock.now(), V2)
    edge.assign(V2)
    device = start(edge.url)
    device.poll()
    device.update()
    assert start().transcribe(SPEECH).model_version == V2


def test_one_that_lies_there_as_another_model_is_not_run(start: Start, app: Path, edge: Edge) -> None:
    """V1 under V2's name, with a signature that holds."""
    (app / V1).rename(app / V2)
    (app / f"{V1}.sig").rename(app / f"{V2}.sig")
    with pytest.raises(NoModelError, match=f"{V2} is of model {V1}"):
        start().transcribe(SPEECH)


@pytest.mark.parametrize("gone", [f"{V1}.sig", f"{V1}/tokenizer.json", f"{V1}/golden"])
def test_one_that_cannot_be_read_is_fetched(start: Start, edge: Edge, app: Path, gone: str) -> None:
    """A file that is missing, or that is something else than a file."""
    path = app / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if gone.endswith(".json"):
        path.symlink_to("nowhere")
    device = start(edge.url)
    device.poll()
    assert device.update().downloaded == (V1,)
    assert device.transcribe(SPEECH).model_version == V1


def test_a_copy_that_cannot_be_written_is_the_disks_fault_and_nothing_is_fetched(
    start: Start, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = start(edge.url)
    device.poll()

    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        patched.setattr(device._updater, "fetch", lambda *arguments: pytest.fail("a fetch needs room as well"))
        with pytest.raises(StorageError, match=f"{V1} cannot be written"):
            device.update()
    assert device.update().downloaded == ()


def test_an_assigned_model_that_came_with_the_app_needs_no_download(
    start: Start, edge: Edge, clock: ManualClock
) -> None:
    device = start(edge.url)
    device.poll()
    done = device.update()
    assert (done.model_version, done.activated, done.downloaded) == (V1, True, ())
    edge.offer(clock.now(), V2)
    edge.assign(V2)
    device.poll()
    assert device.update().downloaded == (V2,)


def test_a_shipped_bundle_of_that_name_with_another_digest_is_not_the_one_assigned(
    start: Start, edge: Edge, app: Path
) -> None:
    edge.answer["bundle_digest"] = "0" * 64
    device = start(edge.url)
    device.poll()
    with pytest.raises(Exception, match="asked for was 0000"):
        device.update()
    edge.assign(V1)
    device.poll()
    spoil(app / V1 / "model.onnx")
    assert device.update().downloaded == (V1,)


def test_an_assignment_that_cannot_be_fetched_leaves_the_apps_own_model(start: Start, edge: Edge) -> None:
    edge.assign(V2)
    device = start(edge.url)
    device.poll()
    with pytest.raises(UpdateUnavailableError):
        device.update()
    assert device.transcribe(SPEECH).model_version == V1


def test_an_empty_or_missing_folder_ships_nothing(tmp_path: Path, app: Path, start: Start) -> None:
    shutil.rmtree(app / V1)
    with pytest.raises(NoModelError, match="nothing is installed"):
        start().transcribe(SPEECH)
