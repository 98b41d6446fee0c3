"""Downloads for python-tuf over the device's own HTTP client, all of one update within one deadline.

A server that sends a byte now and then never runs into a timeout between two bytes, not even within its headers, so
each download runs in a thread of its own and the waiting is what ends. How much may be downloaded python-tuf counts:
`LIMITS` for metadata, the length that the targets metadata names for an archive.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tuf.api.exceptions import DownloadError, DownloadHTTPError, SlowRetrievalError
from tuf.ngclient import FetcherInterface, UpdaterConfig

if TYPE_CHECKING:
    import httpx

LIMITS = UpdaterConfig(
    root_max_length=512_000,
    timestamp_max_length=16_384,
    snapshot_max_length=2_000_000,
    targets_max_length=5_000_000,
    max_root_rotations=256,
)
"""Bytes of each kind of metadata, and how many roots a device takes in one go."""
AHEAD = 4
"""Chunks that may wait for being written."""
_END = b""


class DeadlineFetcher(FetcherInterface):
    """Fetches until a deadline, counted from when it was made.

    Args:
        http: its timeouts hold, too.
        seconds: for everything that is fetched with this object.
        monotonic: seconds of a clock that nobody can set.
    """

    def __init__(self, http: httpx.Client, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._http = http
        self._seconds = seconds
        self._monotonic = monotonic
        self._deadline = monotonic() + seconds

    def _fetch(self, url: str) -> Iterator[bytes]:
        chunks: queue.Queue[bytes | Exception] = queue.Queue(AHEAD)
        enough = threading.Event()
        threading.Thread(target=_pump, args=(self._http, url, chunks, enough), daemon=True).start()
        try:
            while (chunk := self._next(chunks, url)) != _END:
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk
        finally:
            enough.set()

    def _next(self, chunks: queue.Queue[bytes | Exception], url: str) -> bytes | Exception:
        try:
            left = self._deadline - self._monotonic()
            if left > 0:
                return chunks.get(timeout=left)
        except queue.Empty:
            pass
        raise SlowRetrievalError(f"{url} was not there after the {self._seconds:g} s that an update may take")


def _pump(http: httpx.Client, url: str, chunks: queue.Queue[bytes | Exception], enough: threading.Event) -> None:
    """Put the chunks of a download, and then its end or its error, into a queue, until `enough`."""
    import httpx

    def put(item: bytes | Exception) -> None:
        while not enough.is_set():
            try:
                chunks.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    try:
        with http.stream("GET", url, headers={"accept-encoding": "identity"}) as response:
            if response.status_code != httpx.codes.OK:
                raise DownloadHTTPError(f"{url} answered {response.status_code}", response.status_code)
            for chunk in response.iter_raw():
                if enough.is_set():
                    return
                if chunk:
                    put(chunk)
        put(_END)
    except DownloadError as error:
        put(error)
    except Exception as error:  # noqa: BLE001 whatever it was, the update ends with it, and not this thread only
        put(DownloadError(f"{url} cannot be read: {type(error).__name__}"))
