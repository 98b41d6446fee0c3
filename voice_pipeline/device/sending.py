"""Emptying the outbox: in batches, halving a batch that the edge refuses until the one bad letter is found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voice_pipeline.device.errors import EdgeUnavailableError
from voice_pipeline.device.exchange import Deadline, post
from voice_pipeline.device.outbox import Letter, Outbox

if TYPE_CHECKING:
    import httpx

BATCH = 1_000
SENDING_SECONDS = 300.0
"""For all letters of a kind in one go, so that a slow edge cannot hold a device that has other things to do; the rest
is for the next time. The largest capture (2 MB) is up in that time at 60 kbit/s."""
REFUSALS = frozenset({400, 403, 409, 410, 413, 415, 422})
"""Answers that will be the same next time. Everything else but success is tried again later."""


@dataclass(frozen=True)
class Delivery:
    """What became of the letters: acknowledged, or refused for good."""

    sent: int = 0
    refused: int = 0

    def __add__(self, other: Delivery) -> Delivery:
        return Delivery(self.sent + other.sent, self.refused + other.refused)


def deliver_telemetry(outbox: Outbox, http: httpx.Client, edge_url: str) -> Delivery:
    """Post telemetry until none waits. Raises `EdgeUnavailableError` when the edge does not answer in time."""
    total, deadline = Delivery(), Deadline(SENDING_SECONDS)
    while letters := outbox.next("telemetry", BATCH):
        total += _post_batch(outbox, http, deadline, f"{edge_url}/v1/telemetry", letters)
    return total


def _post_batch(
    outbox: Outbox, http: httpx.Client, deadline: Deadline, url: str, letters: Sequence[Letter]
) -> Delivery:
    body = json.dumps({"events": [json.loads(letter.event) for letter in letters]})
    accepted = _accepted(http, deadline, url, content=body, headers={"content-type": "application/json"})
    ids = [letter.event_id for letter in letters]
    if accepted:
        outbox.sent("telemetry", ids)
        return Delivery(sent=len(ids))
    if len(ids) == 1:
        outbox.refused("telemetry", ids)
        return Delivery(refused=1)
    middle = len(letters) // 2
    first = _post_batch(outbox, http, deadline, url, letters[:middle])
    return first + _post_batch(outbox, http, deadline, url, letters[middle:])


def deliver_captures(outbox: Outbox, http: httpx.Client, edge_url: str) -> Delivery:
    """Post captures one by one until none waits. Raises `EdgeUnavailableError` when no answer comes in time."""
    total, deadline = Delivery(), Deadline(SENDING_SECONDS)
    while letters := outbox.next("capture", 1):
        (letter,) = letters
        audio = letter.audio or b""
        form = {"data": {"event": letter.event}, "files": {"audio": ("clip", audio)}}
        if _accepted(http, deadline, f"{edge_url}/v1/captures", **form):
            outbox.sent("capture", [letter.event_id])
            total += Delivery(sent=1)
        else:
            outbox.refused("capture", [letter.event_id])
            total += Delivery(refused=1)
    return total


def _accepted(http: httpx.Client, deadline: Deadline, url: str, **request: object) -> bool:
    """True on success, False on a refusal for good."""
    try:
        reply = post(http, deadline, url, **request)
    except EdgeUnavailableError as error:
        raise EdgeUnavailableError(f"{error}; what waits is kept") from error
    if reply.success:
        return True
    if reply.status in REFUSALS:
        return False
    raise EdgeUnavailableError(f"{url} answered {reply.status}; what waits is kept")
