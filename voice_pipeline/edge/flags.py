"""Flags over OFREP (https://github.com/open-feature/protocol, v0.1): which model a device runs, as a lease.

Any OpenFeature client can ask; the evaluation context's `targetingKey` is the device id, `app_version` the app's.
"""

from __future__ import annotations

import hashlib
from typing import Any

from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from voice_pipeline.release.assignment import assign
from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.store.store import Store

MODEL_FLAG = "dictation-model"


class Evaluation(BaseModel):
    """An OFREP request body; context fields beyond ours are ignored, as the protocol asks."""

    context: dict[str, Any] = Field(default_factory=dict)


def router(store: Store) -> APIRouter:
    """Routes `/ofrep/v1/evaluate/flags[/{key}]` on `store`."""
    routes = APIRouter(tags=["flags"])

    @routes.post("/ofrep/v1/evaluate/flags/{key}")
    def one(key: str, evaluation: Evaluation) -> JSONResponse:
        """Evaluate one flag."""
        if key != MODEL_FLAG:
            return _error(404, key, "FLAG_NOT_FOUND", f"there is no flag {key}; there is {MODEL_FLAG}")
        if not _device(evaluation):
            return _error(400, key, "TARGETING_KEY_MISSING", "the context needs targetingKey, the device id")
        return JSONResponse(_flag(store, evaluation))

    @routes.post("/ofrep/v1/evaluate/flags")
    def bulk(evaluation: Evaluation, if_none_match: str | None = Header(default=None)) -> Response:
        """Evaluate all flags; answers 304 where the client's ETag still holds."""
        if not _device(evaluation):
            return _error(400, None, "TARGETING_KEY_MISSING", "the context needs targetingKey, the device id")
        body = canonical_json({"flags": [_flag(store, evaluation)]})
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        if if_none_match == etag:
            return Response(status_code=304, headers={"ETag": etag})
        return Response(body, media_type="application/json", headers={"ETag": etag})

    return routes


def _device(evaluation: Evaluation) -> str:
    return str(evaluation.context.get("targetingKey") or "")


def _flag(store: Store, evaluation: Evaluation) -> dict[str, Any]:
    assignment = assign(store, _device(evaluation), str(evaluation.context.get("app_version") or "0"))
    return {
        "key": MODEL_FLAG,
        "value": assignment.model_dump(mode="json"),
        "variant": assignment.model_version or "none",
        "reason": assignment.reason,
        "metadata": {"release_id": assignment.release_id or ""},
    }


def _error(status: int, key: str | None, code: str, detail: str) -> JSONResponse:
    body = {"errorCode": code, "errorDetails": detail}
    return JSONResponse(body if key is None else {"key": key, **body}, status_code=status)
