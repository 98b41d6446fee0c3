"""How long a device takes to change its model: the whole update, over loopback, by the reference client.

Loopback and this host's disk: what a phone adds is its network and its flash memory, which `bundle_mb` bounds.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voice_pipeline.store.releases import ReleaseView
    from voice_pipeline.store.store import Store

RUNS = 7
MOST_IDS = 1_000
NEW_APP = "999.0.0"


class NothingToUpdateToError(ValueError):
    """The home has no live model that a device could take; the message says what to do."""


def update_seconds(store: Store, _corpus: Path | None) -> tuple[float, int]:
    """Median seconds from a new device's question to its first own answer: poll, fetch, verify, golden vectors, swap.

    Each run is a device that holds nothing, against the home's own edge and its live bundle.

    Raises:
        NothingToUpdateToError: nothing is live, or every device is in a rollout.
        DeviceError: the live bundle does not reach a device.
    """
    import httpx

    from voice_pipeline.device.client import DeviceClient
    from voice_pipeline.edge.server import EdgeServer
    from voice_pipeline.packaging.repository import UpdateRepository
    from voice_pipeline.schema.clip import UNKNOWN_DEVICE
    from voice_pipeline.store.releases import live

    release = live(store)
    if release is None:
        raise NothingToUpdateToError(f"home {store.settings.root} has no live model; run `make demo` first")
    root = UpdateRepository(store.settings, store.now()).trusted_root()
    context = UNKNOWN_DEVICE.model_copy(update={"app_version": NEW_APP})
    times = []
    with (
        EdgeServer(store, port=0) as edge,
        httpx.Client(timeout=60) as http,
        tempfile.TemporaryDirectory() as folder,
    ):
        for device_id in _settled_devices(store, release):
            device = DeviceClient(Path(folder) / device_id, edge.url, http, device_id, context, root, store.clock)
            started = time.perf_counter()
            device.poll()
            done = device.update()
            times.append(time.perf_counter() - started)
            device.close()
            if done.downloaded != (release.model_version,):
                raise NothingToUpdateToError(f"device got {done.downloaded}, not the live {release.model_version}")
    return median(times), len(times)


def _settled_devices(store: Store, release: ReleaseView) -> list[str]:
    """Ids of `RUNS` devices that run the live model and no other beside it, whatever is being rolled out."""
    from voice_pipeline.release.assignment import assign

    found: list[str] = []
    for number in range(MOST_IDS):
        told = assign(store, f"bench-{number}", NEW_APP)
        if told.model_version == release.model_version and told.shadow_model_version is None:
            found.append(f"bench-{number}")
        if len(found) == RUNS:
            return found
    raise NothingToUpdateToError(f"fewer than {RUNS} devices run {release.model_version} alone; try after the rollout")
