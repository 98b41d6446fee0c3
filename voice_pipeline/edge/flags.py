"""Flags over OFREP (https://github.com/open-feature/protocol, service/openapi.yaml): which model a device runs, as a
lease, and where its dictations are turned into text.

Any OpenFeature client can ask; the evaluation context's `targetingKey` is the device id, `app_version` the app's,
`device_class` the device's. Both kinds of request carry an ETag of the answer and are answered 304 while it holds.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import JSONResponse

from voice_pipeline.edge.inference import InferenceModes
from voice_pipeline.edge.ledger_check import LedgerCheck
from voice_pipeline.release.assignment import Assignment, assign
from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.schema.policy_file import PolicyError
from voice_pipeline.store.store import Store

MODEL_FLAG = "dictation-model"
MODE_FLAG = "dictation-inference-mode"
FLAGS = (MODEL_FLAG, MODE_FLAG)
NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, which telemetry refuses in device ids too, and lone surrogates, which JSON has and UTF-8 not."""


async def _raw(request: Request) -> bytes:
    return await request.body()


Body = Annotated[bytes, Depends(_raw)]
"""Read as it comes: what is no JSON is answered in the protocol's own terms."""

IfNoneMatch = Annotated[str, Header()]


class BadEvaluationError(Exception):
    """A request that OFREP answers with 400 and this code."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True)
class Evaluation:
    """Who asks; context fields beyond ours are ignored, as the protocol asks."""

    device_id: str
    app_version: str
    device_class: str


def router(store: Store) -> APIRouter:
    """Routes `/ofrep/v1/evaluate/flags[/{key}]` on `store`.

    While the ledger does not verify they raise LedgerBrokenError (the application answers 503): leases then lapse, and
    each device falls back to its last good model.
    """
    routes, ledger = APIRouter(tags=["flags"]), LedgerCheck(store)
    modes = InferenceModes(store)

    @routes.post("/ofrep/v1/evaluate/flags/{key}")
    def one(key: str, body: Body, if_none_match: IfNoneMatch = "") -> Response:
        """Evaluate one flag."""
        if key not in FLAGS:
            return _error(404, key, "FLAG_NOT_FOUND", f"there is no flag {key}; there are {', '.join(FLAGS)}")
        try:
            asked = _evaluation(body)
        except BadEvaluationError as error:
            return _error(400, key, error.code, str(error))
        ledger.check()
        flag = _evaluate(store, modes, asked)[key]
        return _error(500, **_renamed(flag)) if "errorCode" in flag else _tagged(flag, if_none_match)

    @routes.post("/ofrep/v1/evaluate/flags")
    def bulk(body: Body, if_none_match: IfNoneMatch = "") -> Response:
        """Evaluate all flags."""
        try:
            asked = _evaluation(body)
        except BadEvaluationError as error:
            return _error(400, None, error.code, str(error))
        ledger.check()
        return _tagged({"flags": list(_evaluate(store, modes, asked).values())}, if_none_match)

    return routes


def _evaluation(body: bytes) -> Evaluation:
    """Raises:
    BadEvaluationError: the body is no OFREP request, or does not say which device asks.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadEvaluationError("PARSE_ERROR", "the body is no JSON") from error
    context = content.get("context", {}) if isinstance(content, dict) else None
    if not isinstance(context, dict):
        raise BadEvaluationError("INVALID_CONTEXT", "the body needs an object `context`")
    device_id = context.get("targetingKey")
    if not isinstance(device_id, str) or not device_id:
        raise BadEvaluationError("TARGETING_KEY_MISSING", "the context needs targetingKey, the device id")
    told = [device_id, *(str(context.get(name) or "") for name in ("app_version", "device_class"))]
    if any(NO_TEXT.search(value) for value in told):
        why = "targetingKey, app_version and device_class must be text without control characters or lone surrogates"
        raise BadEvaluationError("INVALID_CONTEXT", why)
    return Evaluation(*told)


def _evaluate(store: Store, modes: InferenceModes, asked: Evaluation) -> dict[str, dict[str, Any]]:
    """Every flag's answer, by key; both come from one assignment."""
    assignment = assign(store, asked.device_id, asked.app_version or "0")
    return {MODEL_FLAG: _model_flag(assignment), MODE_FLAG: _mode_flag(modes, asked, assignment)}


def _model_flag(assignment: Assignment) -> dict[str, Any]:
    return {
        "key": MODEL_FLAG,
        "value": assignment.model_dump(mode="json"),
        "variant": assignment.model_version or "none",
        "reason": assignment.reason,
        "metadata": {"release_id": assignment.release_id or ""},
    }


def _mode_flag(modes: InferenceModes, asked: Evaluation, assignment: Assignment) -> dict[str, Any]:
    try:
        mode, reason = modes.of(asked.device_class, fits=assignment.model_version is not None)
    except PolicyError as error:  # no reason to leave a device without its model
        return {"key": MODE_FLAG, "errorCode": "GENERAL", "errorDetails": str(error)}
    return {"key": MODE_FLAG, "value": mode.value, "variant": mode.value, "reason": reason, "metadata": {}}


def _tagged(answer: dict[str, Any], if_none_match: str) -> Response:
    """The answer with its ETag, or 304 where the caller's tags name it."""
    body = canonical_json(answer)
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    known = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    if etag in known:
        return Response(status_code=304, headers={"ETag": etag})
    return Response(body, media_type="application/json", headers={"ETag": etag})


def _renamed(flag: dict[str, Any]) -> dict[str, Any]:
    return {"key": flag["key"], "code": flag["errorCode"], "detail": flag["errorDetails"]}


def _error(status: int, key: str | None, code: str, detail: str) -> JSONResponse:
    body = {"errorCode": code, "errorDetails": detail}
    return JSONResponse(body if key is None else {"key": key, **body}, status_code=status)
