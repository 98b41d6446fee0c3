"""Downloads for python-tuf over the device's own HTTP client, all of one update within one deadline.

How long that may take is for `device.exchange` to keep to. How much may be downloaded python-tuf counts: `LIMITS` for
metadata, the length that the targets metadata names for an archive.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING

from tuf.api.exceptions import DownloadError, DownloadHTTPError, SlowRetrievalError
from tuf.ngclient import FetcherInterface, UpdaterConfig

from voice_pipeline.device.exchange import Deadline, DeadlineError, exchange

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


class DeadlineFetcher(FetcherInterface):
    """Fetches until a deadline, counted from when it was made.

    Args:
        http: its timeouts hold, too.
        seconds: for everything that is fetched with this object.
        monotonic: seconds of a clock that nobody can set.
    """

    def __init__(self, http: httpx.Client, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._http = http
        self._deadline = Deadline(seconds, monotonic)

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            with exchange(self._http, self._deadline, "GET", url) as answer:
                if answer.status != HTTPStatus.OK:
                    raise DownloadHTTPError(f"{url} answered {answer.status}", answer.status)
                yield from answer.chunks
        except DownloadError:
            raise
        except DeadlineError as error:
            raise SlowRetrievalError(f"{error} that an update may take") from error
        except Exception as error:
            raise DownloadError(f"{url} cannot be read: {type(error).__name__}") from error
