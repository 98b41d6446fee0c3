"""An attacker between a device and its edge: serves the repository's files as they are, except those that it spoils."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Spoil = Callable[["Handler", bytes], None]
PIECE = b"\0" * 65_536


@dataclass
class Hostile:
    """Attributes:
    served: the repository's folder.
    spoil: end of a file's name → what to answer with instead.
    sent: bytes of all answers.
    """

    served: Path
    spoil: dict[str, Spoil] = field(default_factory=dict)
    sent: int = 0
    url: str = ""
    over: bool = False


class Handler(BaseHTTPRequestHandler):
    """Answers GET; `whole`, `head` and `body` are for those who spoil."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any, hostile: Hostile, **kwargs: Any) -> None:
        self.hostile = hostile
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        path = self.hostile.served / self.path.removeprefix("/tuf/")
        data = path.read_bytes() if path.is_file() else b""
        spoil = next((found for end, found in self.hostile.spoil.items() if path.name.endswith(end)), None)
        self.close_connection = True
        try:
            if spoil is not None:
                spoil(self, data)
            elif path.is_file():
                self.head(len(data))
                self.body(data)
            else:
                self.send_error(404)
        except OSError:
            pass  # the device has gone

    def head(self, length: int | None) -> None:
        self.send_response(200)
        if length is None:
            self.send_header("transfer-encoding", "chunked")
        else:
            self.send_header("content-length", str(length))
        self.end_headers()

    def body(self, data: bytes) -> None:
        self.wfile.write(data)
        self.hostile.sent += len(data)

    def log_message(self, *args: Any) -> None:
        pass


def endless(handler: Handler, data: bytes) -> None:
    """The file, and then more and more of a body whose length is said to be huge."""
    handler.head(10**12)
    handler.body(data)
    while not handler.hostile.over:
        handler.body(PIECE)


def endless_chunks(handler: Handler, data: bytes) -> None:
    """The same without saying any length."""
    handler.head(None)
    while not handler.hostile.over:
        handler.body(b"%x\r\n%s\r\n" % (len(PIECE), PIECE))


def trickle_body(handler: Handler, data: bytes) -> None:
    """A byte now and then, oftener than any timeout between two bytes."""
    data = data or PIECE
    handler.head(len(data))
    for byte in data:
        if handler.hostile.over:
            return
        handler.body(bytes([byte]))
        time.sleep(0.02)


def trickle_headers(handler: Handler, data: bytes) -> None:
    """Headers that never end, slowly."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nx-patience: ")
    while not handler.hostile.over:
        handler.body(b"a")
        time.sleep(0.02)


def silence(handler: Handler, data: bytes) -> None:
    """No answer at all, on an open connection."""
    while not handler.hostile.over:
        time.sleep(0.02)


def cut(share: float) -> Spoil:
    """The connection breaks after a share of the body that was announced."""

    def spoil(handler: Handler, data: bytes) -> None:
        handler.head(len(data))
        handler.body(data[: int(len(data) * share)])

    return spoil


def instead(other: bytes) -> Spoil:
    """Another file in its place."""

    def spoil(handler: Handler, data: bytes) -> None:
        handler.head(len(other))
        handler.body(other)

    return spoil


def moved_to(url: str) -> Spoil:
    """A redirect."""

    def spoil(handler: Handler, data: bytes) -> None:
        handler.send_response(302)
        handler.send_header("location", url)
        handler.send_header("content-length", "0")
        handler.end_headers()

    return spoil


@contextmanager
def between(served: Path) -> Iterator[Hostile]:
    """A running attacker in front of the repository in `served`."""
    hostile = Hostile(served)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, hostile=hostile))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    hostile.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hostile
    finally:
        hostile.over = True
        server.shutdown()
        server.server_close()
