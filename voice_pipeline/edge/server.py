"""The edge on a loopback port, in a thread of this process: for stories and tests."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import uvicorn

from voice_pipeline.edge.app import create_app
from voice_pipeline.store.store import Store


class EdgeServer:
    """`with EdgeServer(store) as edge: edge.url`. Port 0 takes a free one."""

    def __init__(self, store: Store, host: str = "127.0.0.1", port: int = 0) -> None:
        config = uvicorn.Config(create_app(store), host=host, port=port, log_level="error", access_log=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="edge", daemon=True)

    def __enter__(self) -> EdgeServer:
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the edge did not start; is its port taken?")
            time.sleep(0.01)
        return self

    @property
    def url(self) -> str:
        host, port = self._server.servers[0].sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
