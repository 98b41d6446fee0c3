"""A device on a disk that fills up; `test_full_disk.py` runs it in a mount namespace with a small disk of its own.

    python full_disk.py DISK SETUP

DISK is an empty file system of a few megabytes, SETUP a JSON file: the device's home to copy there, edge, root, clock.
"""

from __future__ import annotations

import errno
import json
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from voice_pipeline.device.client import DeviceClient
from voice_pipeline.device.errors import DeviceError
from voice_pipeline.device.outbox import Letter
from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.device.conftest import PHONE

SPEECH = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)


def fill(disk: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as handle:
        for size in (100_000, 4096, 1):
            try:
                while True:
                    handle.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return ballast


def tried(step: Any) -> str:
    """Name of the device's error; anything else escapes and fails the test."""
    try:
        step()
    except DeviceError as error:
        return type(error).__name__
    return "done"


def told(numbers: range) -> list[Letter]:
    return [Letter(f"event-{number:05}", json.dumps({"event_id": f"event-{number:05}"})) for number in numbers]


def main(disk: Path, setup: dict[str, str]) -> dict[str, Any]:
    home = disk / "device"
    shutil.copytree(setup["home"], home)
    clock = ManualClock(datetime.fromisoformat(setup["now"]))
    root = Path(setup["root"]).read_bytes()
    found: dict[str, Any] = {}
    with httpx.Client(timeout=20) as http:

        def start() -> DeviceClient:
            return DeviceClient(home, setup["url"], http, "device-0001", PHONE, root, clock)

        device = start()
        found["kept before"] = device.outbox.add("telemetry", told(range(30)))
        device.poll()
        ballast = fill(disk)
        found["kept while full"] = device.outbox.add("telemetry", told(range(30, 2030)))
        found["lost"] = device.outbox.lost("telemetry")
        found["clip kept"] = device.outbox.add("capture", [Letter("clip-0001", "{}", bytes(500_000))])
        found["poll"] = tried(device.poll)
        found["update"] = tried(device.update)
        found["while full"] = device.transcribe(SPEECH).model_version
        restarted = start()
        found["restarted"] = restarted.transcribe(SPEECH).model_version
        found["report restarted"] = restarted.outbox.add("telemetry", told(range(5000, 9000)))
        restarted.close()
        found["sent"] = device.flush().sent
        found["sent again"] = device.flush().sent
        ballast.unlink()
        found["lost after"] = device.outbox.lost("telemetry")
        found["kept after"] = device.outbox.add("telemetry", told(range(2030, 2040)))
        found["poll after"] = tried(device.poll)
        found["update after"] = tried(device.update)
        found["after"] = device.transcribe(SPEECH).model_version
        found["sent after"] = device.flush().sent
        device.close()
        found["lost for good"] = start().outbox.lost("telemetry")
        found["left over"] = [
            path.name for path in (home / "slots").iterdir() if path.name.startswith(("stag", "trash"))
        ]
    return found


if __name__ == "__main__":
    result = main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
    sys.stdout.write(json.dumps(result))
