"""Asking the edge what to do, over OFREP (https://github.com/open-feature/protocol): which model to run and where
dictations are turned into text, both in one request, so that they belong together.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from voice_pipeline.device.assignment import DeviceAssignment, Flags
from voice_pipeline.device.errors import EdgeUnavailableError
from voice_pipeline.device.exchange import Deadline, post
from voice_pipeline.schema.inference import InferenceMode

if TYPE_CHECKING:
    import httpx

    from voice_pipeline.schema.clip import DeviceContext

MODEL_FLAG = "dictation-model"
MODE_FLAG = "dictation-inference-mode"
NOT_MODIFIED = 304
FLAGS_SECONDS = 30.0
"""For one poll: a small answer over the slowest network that carries speech; the lease lasts far longer."""
_TAG = re.compile(r"[\x21-\x7e]{1,200}")
"""Entity tags (RFC 9110, 8.8.3) that can be sent back; without its tag an answer is merely fetched whole each time."""


def ask_flags(
    http: httpx.Client, edge_url: str, device_id: str, context: DeviceContext, known: Flags | None = None
) -> Flags:
    """What the edge tells this device now.

    Args:
        edge_url: where the edge answers, without a path.
        known: the last answer; given again where the edge says that it still holds.

    Raises:
        EdgeUnavailableError: no usable answer.
    """
    tag = _tag(known.etag) if known else ""
    asked = {"targetingKey": device_id, **context.model_dump(mode="json")}
    url = f"{edge_url}/ofrep/v1/evaluate/flags"
    try:
        told = {"if-none-match": tag} if tag else {}
        reply = post(http, Deadline(FLAGS_SECONDS), url, json={"context": asked}, headers=told)
        if known is not None and tag and reply.status == NOT_MODIFIED:
            return known
        if not reply.success:
            raise EdgeUnavailableError(f"it answered {reply.status}")
        return read_flags(reply.content, reply.etag)
    except (EdgeUnavailableError, ValueError) as error:
        raise EdgeUnavailableError(f"edge did not assign a model to {device_id}: {error}") from error


def read_flags(body: bytes, etag: str = "") -> Flags:
    """The flags of an OFREP bulk evaluation. A mode that is missing, unknown or could not be evaluated is `local`.

    Raises:
        ValueError: there is no model assignment in it.
    """
    try:
        flags = {flag["key"]: flag for flag in json.loads(body)["flags"]}
        assignment = DeviceAssignment.model_validate(flags[MODEL_FLAG]["value"])
    except (KeyError, TypeError, RecursionError, ValidationError) as error:
        raise ValueError(f"flag response holds no assignment: {type(error).__name__}") from error
    return Flags(assignment, _mode(flags.get(MODE_FLAG)), _tag(etag))


def _mode(flag: Any) -> InferenceMode:
    try:
        return InferenceMode(flag["value"])
    except (KeyError, TypeError, ValueError):
        return InferenceMode.LOCAL


def _tag(etag: str) -> str:
    """Empty where it cannot be sent back."""
    return etag if _TAG.fullmatch(etag) else ""
