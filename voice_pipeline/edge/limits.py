"""No request body grows without bound: bytes are counted as they arrive, whatever `Content-Length` claims."""

from __future__ import annotations

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 8_000_000
"""Room for 5,000 telemetry events; a capture needs at most 2 MB and its event."""


class BodyLimit:
    """ASGI middleware: answers 413 as soon as a body passes `limit` bytes, and reads no further."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a counting `receive`."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise HTTPException(413, f"the body has more than {self._limit} bytes; send less at a time")
            return message

        await self._app(scope, counted if scope["type"] == "http" else receive, send)
