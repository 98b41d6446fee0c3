"""One HTTP exchange that ends at its deadline, its answer read no further than it can be meant.

A server that sends a byte now and then never runs into a timeout between two bytes, not even within its headers. So
each exchange runs in a thread of its own and the waiting is what ends; whoever waited then shuts the connection down,
and the thread ends with it (while it still looks a name up or connects: when that ends by the timeouts of the client).
For that the connection has to be known before the first byte of an answer: each exchange opens one of its own.
Nothing is decompressed: an answer of a few hundred bytes could become as large as the memory.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from voice_pipeline.device.errors import EdgeUnavailableError

if TYPE_CHECKING:
    import httpx

LONGEST_ANSWER = 256_000
AHEAD = 4
"""Chunks that may wait for being taken."""
_END = b""
_HEADERS = {"accept-encoding": "identity", "connection": "close"}
_CONNECTED = ("connect_tcp.complete", "connect_unix_socket.complete", "start_tls.complete")


class DeadlineError(Exception):
    """The answer was not there in time."""


class EncodedAnswerError(Exception):
    """The answer is compressed, which nobody asked for."""


class Deadline:
    """The moment by which everything has to be there that is exchanged under it, counted from when it was made.

    Args:
        monotonic: seconds of a clock that nobody can set.
    """

    def __init__(self, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._monotonic = monotonic
        self._end = monotonic() + seconds

    def left(self) -> float:
        """Seconds; negative once it has passed."""
        return self._end - self._monotonic()


@dataclass(frozen=True)
class Answer:
    """An answer whose body is still on its way. `etag` is empty where there is none."""

    status: int
    etag: str
    chunks: Iterator[bytes]


@contextmanager
def exchange(http: httpx.Client, deadline: Deadline, method: str, url: str, **request: Any) -> Iterator[Answer]:
    """Send a request with httpx's arguments, whose timeouts hold, too; to be left once the answer has been read.

    Raises:
        DeadlineError: on the way in, or from `Answer.chunks`: the deadline has passed.
        EncodedAnswerError: the answer is compressed.
        httpx.HTTPError: likewise: no answer, or a broken one.
    """
    with _Sending(http, deadline, method, url, request) as sending:
        head = sending.next()
        assert isinstance(head, _Head)
        yield Answer(head.status, head.etag, sending.chunks())


@dataclass(frozen=True)
class _Head:
    status: int
    etag: str


class _AbandonedError(Exception):
    """Nobody waits any more."""


class _Sending:
    """The thread of an exchange, and what comes out of it: the head, the chunks, an empty one; or an error."""

    def __init__(self, http: httpx.Client, deadline: Deadline, method: str, url: str, request: dict[str, Any]) -> None:
        self._http = http
        self._deadline = deadline
        self._method = method
        self._url = url
        self._request = {**request, "headers": {**request.get("headers", {}), **_HEADERS}}
        self._queue: queue.Queue[_Head | bytes | Exception] = queue.Queue(AHEAD)
        self._lock = threading.Lock()
        self._abandoned = False
        self._socket: socket.socket | None = None

    def __enter__(self) -> _Sending:
        threading.Thread(target=self._run, name="device-exchange", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._abandoned = True
            if self._socket is not None:
                with suppress(OSError):  # closed already
                    # Past TLS, whose own state belongs to the thread; closing would not wake what waits for a byte.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def next(self) -> _Head | bytes:
        left = self._deadline.left()
        try:
            item = self._queue.get(timeout=max(left, 0)) if left > 0 else None
        except queue.Empty:
            item = None
        if item is None:
            raise DeadlineError(f"{self._url} was not there after the {self._deadline.seconds:g} s")
        if isinstance(item, Exception):
            raise item
        return item

    def chunks(self) -> Iterator[bytes]:
        while (chunk := self.next()) != _END:
            assert isinstance(chunk, bytes)
            yield chunk

    def _run(self) -> None:
        with suppress(_AbandonedError):
            try:
                self._send()
            except _AbandonedError:
                raise
            except Exception as error:  # noqa: BLE001 whatever it was is for the one who waits
                self._put(error)

    def _send(self) -> None:
        extensions = {"trace": self._trace}
        with self._http.stream(self._method, self._url, extensions=extensions, **self._request) as response:
            coding = response.headers.get("content-encoding", "identity")
            if coding != "identity":
                raise EncodedAnswerError(f"{self._url} answered in an encoding that nobody asked for")
            self._put(_Head(response.status_code, response.headers.get("etag", "")))
            for chunk in response.iter_raw():
                if chunk:
                    self._put(chunk)
        self._put(_END)

    def _put(self, item: _Head | bytes | Exception) -> None:
        while not self._abandoned:
            try:
                self._queue.put(item, timeout=0.2)
                return
            except queue.Full:
                continue
        raise _AbandonedError

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """httpx's only way to the connection before an answer begins
        (https://www.encode.io/httpcore/extensions/#trace)."""
        if event.endswith(_CONNECTED):
            with self._lock:
                self._socket = info["return_value"].get_extra_info("socket")
                if self._abandoned:
                    raise _AbandonedError


@dataclass(frozen=True)
class Reply:
    """What the edge answered. `etag` is empty where it named none."""

    status: int
    content: bytes
    etag: str = ""

    @property
    def success(self) -> bool:
        return 200 <= self.status < 300


def post(http: httpx.Client, deadline: Deadline, url: str, **request: Any) -> Reply:
    """Post with httpx's arguments, whose timeouts hold, too.

    Raises:
        EdgeUnavailableError: no answer before the deadline, a compressed one, or one of more than `LONGEST_ANSWER`
            bytes.
    """
    import httpx

    content = bytearray()
    try:
        with exchange(http, deadline, "POST", url, **request) as answer:
            for chunk in answer.chunks:
                content += chunk
                if len(content) > LONGEST_ANSWER:
                    raise EdgeUnavailableError(f"{url} answered more than {LONGEST_ANSWER} bytes; it is not believed")
            return Reply(answer.status, bytes(content), answer.etag)
    except DeadlineError as error:
        raise EdgeUnavailableError(f"{error} that it has") from error
    except EncodedAnswerError as error:
        raise EdgeUnavailableError(f"{error}; it is not believed") from error
    except httpx.HTTPError as error:
        raise EdgeUnavailableError(f"{url} did not answer ({type(error).__name__})") from error
