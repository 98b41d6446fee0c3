"""A publisher with two signed bundles on offer over HTTP, and a device that trusts its root."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from voice_pipeline.device.client import DeviceClient
from voice_pipeline.packaging import archive
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.schema.bundle import BundleManifest
from voice_pipeline.schema.clip import DeviceClass, DeviceContext, Microphone
from voice_pipeline.settings import Settings, load_settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.packaging.small_models import sign_small_bundle

V1, V2, V3 = (f"m-20261102-0000000{n}" for n in (1, 2, 3))
PHONE = DeviceContext(
    device_class=DeviceClass.PHONE_MID, os="android-14", app_version="1.2.0", microphone=Microphone.BUILT_IN
)


@dataclass
class Edge:
    """An edge that serves the repository's files, assigns what `answer` says, tells `mode`, transcribes everything as
    `heard` (None: it has no live model) and remembers what was posted, with the headers in `asked`.
    """

    settings: Settings
    manifests: dict[str, BundleManifest]
    url: str = ""
    answer: dict[str, Any] = field(default_factory=dict)
    mode: Any = "local"
    heard: dict[str, Any] | None = None
    asked: list[dict[str, str]] = field(default_factory=list)
    status: int = 202
    refuse: Callable[[dict[str, Any]], bool] = lambda event: False
    posted: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def served(self) -> Path:
        return self.settings.tuf / "repository"

    def repository(self, now: datetime) -> UpdateRepository:
        return UpdateRepository(self.settings, now)

    def flags(self) -> bytes:
        told = {"dictation-model": self.answer, "dictation-inference-mode": self.mode}
        return json.dumps({"flags": [{"key": key, "value": value} for key, value in told.items()]}).encode()

    def offer(self, now: datetime, *versions: str) -> None:
        for version in versions:
            self.repository(now).publish(self.settings.bundles / version, self.manifests[version])

    def assign(
        self, version: str | None, shadow: str | None = None, reason: str = "DEFAULT", lease: int = 3600
    ) -> None:
        self.answer = {
            "model_version": version,
            "bundle_digest": self.manifests[version].digest if version else None,
            "release_id": f"{version}-r1" if version else None,
            "shadow_model_version": shadow,
            "shadow_bundle_digest": self.manifests[shadow].digest if shadow else None,
            "lease_seconds": lease,
            "reason": reason,
        }


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args: Any, edge: Edge, **kwargs: Any) -> None:
        self.edge = edge
        super().__init__(*args, directory=str(edge.served.parent), **kwargs)

    def translate_path(self, path: str) -> str:
        return super().translate_path(path.replace("/tuf/", "/repository/", 1))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.edge.posted.append((self.path, body))
        self.edge.asked.append({name.lower(): value for name, value in self.headers.items()})
        status, answer, etag = self.edge.status, b"{}", ""
        if self.path == "/ofrep/v1/evaluate/flags":
            status, answer = 200, self.edge.flags()
            etag = f'"{hashlib.sha256(answer).hexdigest()}"'
            if self.headers["if-none-match"] == etag:
                status, answer = 304, b""
        elif self.path == "/v1/transcriptions":
            status = 503 if self.edge.heard is None else 200
            answer = json.dumps(self.edge.heard or {}).encode()
        elif self.path == "/v1/telemetry" and any(map(self.edge.refuse, json.loads(body)["events"])):
            status = 422
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        if etag:
            self.send_header("etag", etag)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="session", autouse=True)
def _quick_archives() -> Iterator[None]:
    """xz takes most of a small bundle's publication; what devices make of an archive is the same at any preset."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(archive, "PRESET", 0)
        yield


@pytest.fixture(scope="session")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, dict[str, BundleManifest]]:
    """Three signed bundles; the third needs a newer app."""
    settings = load_settings(tmp_path_factory.mktemp("publisher"))
    manifests = {v: sign_small_bundle(settings, v, seed, min_app="1.0.0") for seed, v in enumerate((V1, V2))}
    manifests[V3] = sign_small_bundle(settings, V3, 2, min_app="9.0.0")
    return settings, manifests


@pytest.fixture
def edge(publisher: tuple[Settings, dict[str, BundleManifest]], tmp_path: Path, clock: ManualClock) -> Iterator[Edge]:
    """A running edge with V1 on offer and assigned."""
    shutil.copytree(publisher[0].root, tmp_path / "publisher")
    made = Edge(load_settings(tmp_path / "publisher"), publisher[1])
    made.offer(clock.now(), V1)
    made.assign(V1)
    with serving(made):
        yield made


@contextmanager
def serving(made: Edge) -> Iterator[None]:
    """`made` answers on a port of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, edge=made))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    yield
    server.shutdown()
    server.server_close()


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=5) as client:
        yield client


@pytest.fixture
def new_device(
    edge: Edge, tmp_path: Path, http: httpx.Client, clock: ManualClock
) -> Iterator[Callable[[], DeviceClient]]:
    """Starts the device anew: the same home, nothing in memory."""
    started: list[DeviceClient] = []
    root = edge.repository(clock.now()).trusted_root()

    def start() -> DeviceClient:
        started.append(DeviceClient(tmp_path / "device", edge.url, http, "device-0001", PHONE, root, clock))
        return started[-1]

    yield start
    for client in started:
        client.close()


@pytest.fixture
def device(new_device: Callable[[], DeviceClient]) -> DeviceClient:
    """A device with V1 installed and active."""
    client = new_device()
    client.poll()
    client.update()
    return client
