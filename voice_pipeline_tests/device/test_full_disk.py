"""A disk with no room left: the device dictates with the model it has, tells what it could not keep, and recovers."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from voice_pipeline.device.client import DeviceClient
from voice_pipeline.device.outbox import Letter, Outbox
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.device import full_disk
from voice_pipeline_tests.device.conftest import V1, V2, Edge

SPEECH = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
DISK_BYTES = 6_000_000


def on_a_small_disk(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command with a file system of its own at `folder`."""
    unshare = shutil.which("unshare")
    mount = f'mount -t tmpfs -o size={DISK_BYTES} none "$0" && exec "$@"'
    wrapped = [str(unshare), "-rm", "sh", "-c", mount, str(folder)]
    if unshare is None or subprocess.run([*wrapped, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs a mount namespace (unshare -rm) for a disk that can fill up")
    return subprocess.run(
        [*wrapped, *command], capture_output=True, text=True, timeout=120, cwd=PROJECT_ROOT, check=False
    )


def test_on_a_full_disk_it_dictates_keeps_its_model_loses_only_what_it_counts_and_recovers(
    edge: Edge, device: DeviceClient, clock: ManualClock, tmp_path: Path
) -> None:
    device.close()
    edge.offer(clock.now(), V2)
    edge.assign(V2)
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "root.json").write_bytes(edge.repository(clock.now()).trusted_root())
    setup = {"home": str(tmp_path / "device"), "url": edge.url, "root": str(tmp_path / "root.json")}
    (tmp_path / "setup.json").write_text(json.dumps(setup | {"now": clock.now().isoformat()}))
    edge.posted.clear()
    done = on_a_small_disk(disk, [sys.executable, "-m", full_disk.__name__, str(disk), str(tmp_path / "setup.json")])
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["kept before"] is True
    assert (found["kept while full"], found["clip kept"]) == (False, False)
    assert found["lost"] == 2000
    assert found["poll"] == "StorageError"
    assert found["update"] in ("StorageError", "UpdateUnavailableError")
    assert found["while full"] == found["restarted"] == V1
    assert found["report restarted"] is False
    assert (found["sent"], found["sent again"]) == (30, 0), "what waited could be sent, once"
    assert found["lost after"] == 2000
    assert (found["kept after"], found["poll after"], found["update after"]) == (True, "done", "done")
    assert (found["after"], found["sent after"], found["lost for good"]) == (V2, 10, 2000)
    assert found["left over"] == []
    arrived = [e["event_id"] for path, body in edge.posted if "telemetry" in path for e in json.loads(body)["events"]]
    assert arrived == [f"event-{number:05}" for number in [*range(30), *range(2030, 2040)]]


def test_an_update_that_finds_no_room_keeps_the_model(
    edge: Edge, device: DeviceClient, clock: ManualClock, tmp_path: Path
) -> None:
    """The same with files that may not grow beyond a size: any system that has limits can run it."""
    edge.offer(clock.now(), V2)
    edge.assign(V2)
    device.poll()
    found = limited(20_000, lambda: full_disk.tried(device.update))
    assert found in ("StorageError", "UpdateUnavailableError", "UpdateRefusedError")
    assert device.transcribe(SPEECH).model_version == V1
    assert not [*(tmp_path / "device" / "slots").glob("staging-*")]
    assert full_disk.tried(device.update) == "done"
    assert device.transcribe(SPEECH).model_version == V2


def test_an_outbox_that_may_not_grow_says_so_and_goes_on_later(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    assert outbox.add("telemetry", full_disk.told(range(5)))
    size = max(file.stat().st_size for file in tmp_path.iterdir())
    assert limited(size, lambda: outbox.add("telemetry", full_disk.told(range(5, 900)))) is False
    assert (outbox.waiting("telemetry"), outbox.lost("telemetry")) == (5, 895)
    assert limited(size, lambda: outbox.add("capture", [Letter("clip-0001", "{}", bytes(900_000))])) is False
    assert outbox.add("telemetry", full_disk.told(range(900, 903)))
    outbox.close()
    again = Outbox(tmp_path / "outbox.db")
    assert [letter.event_id for letter in again.next("telemetry", 9)] == [
        f"event-{number:05}" for number in (0, 1, 2, 3, 4, 900, 901, 902)
    ]
    assert again.lost("telemetry") == 895
    assert not list(tmp_path.glob("damaged-*"))


def test_an_outbox_that_can_be_opened_only_later_stops_nobody(tmp_path: Path) -> None:
    outbox = limited(0, lambda: Outbox(tmp_path / "new" / "outbox.db"))
    assert limited(0, lambda: outbox.add("telemetry", full_disk.told(range(3)))) is False
    assert (limited(0, lambda: outbox.next("telemetry", 5)), outbox.lost("telemetry")) == ([], 3)
    assert outbox.add("telemetry", full_disk.told(range(3, 5)))
    assert (outbox.waiting("telemetry"), outbox.lost("telemetry")) == (2, 3)


def limited(size: int, step):  # type: ignore[no-untyped-def]
    """What `step` gives while no file of this process may grow beyond `size` bytes (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        return step()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
