"""One request to the edge, its answer read no further than it can be meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from voice_pipeline.device.errors import EdgeUnavailableError

if TYPE_CHECKING:
    import httpx

LONGEST_ANSWER = 256_000


@dataclass(frozen=True)
class Reply:
    """What the edge answered. `etag` is empty where it named none."""

    status: int
    content: bytes
    etag: str = ""

    @property
    def success(self) -> bool:
        return 200 <= self.status < 300


def post(http: httpx.Client, url: str, **request: Any) -> Reply:
    """Post with httpx's arguments, whose timeouts hold.

    Raises:
        EdgeUnavailableError: no answer, or one of more than `LONGEST_ANSWER` bytes.
    """
    import httpx

    content = bytearray()
    try:
        with http.stream("POST", url, **request) as response:
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > LONGEST_ANSWER:
                    raise EdgeUnavailableError(f"{url} answered more than {LONGEST_ANSWER} bytes; it is not believed")
            return Reply(response.status_code, bytes(content), response.headers.get("etag", ""))
    except httpx.HTTPError as error:
        raise EdgeUnavailableError(f"{url} did not answer ({type(error).__name__})") from error
