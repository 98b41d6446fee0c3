"""Where devices hand in clips.

Promise: 2xx is sent only when the event and its audio are on disk. The event's own claims decide nothing: consent and
size are judged again by the intake, and the body is cut off at the largest clip that is allowed.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, UploadFile
from pydantic import ValidationError

from voice_pipeline.capture.intake import accept
from voice_pipeline.schema.clip import MAX_CLIP_BYTES, CaptureEvent
from voice_pipeline.store.store import Store


def router(store: Store) -> APIRouter:
    """Route `/v1/captures` on `store`."""
    routes = APIRouter(tags=["captures"])

    @routes.post("/v1/captures", status_code=202)
    def capture(event: Annotated[str, Form(max_length=20_000)], audio: UploadFile) -> dict[str, Any]:
        """Take one clip: form field `event` (CaptureEvent as JSON) and file `audio` (WAV PCM16 or FLAC)."""
        try:
            parsed = CaptureEvent.model_validate_json(event)
        except ValidationError as error:
            wrong = [{"field": ".".join(map(str, e["loc"])), "problem": e["msg"]} for e in error.errors()]
            raise HTTPException(422, detail=wrong) from error
        answer = accept(store, parsed, audio.file.read(MAX_CLIP_BYTES + 1))
        if answer.refused is not None:
            raise HTTPException(422, detail=f"clip {answer.clip_id} refused: {answer.refused}")
        return {"clip_id": answer.clip_id, "duplicate": answer.duplicate}

    return routes
