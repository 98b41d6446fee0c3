"""The review page: where people hear a clip and write what was said.

Promises: a clip that may no longer be heard is not played (410); audio never lies in a cache; a retried answer
counts once; another answer to a settled task is refused (409). The page is one HTML file, one script and one style
sheet, served from here, with a content security policy that lets nothing else in. Answers are JSON, so another
site's form cannot send one.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from voice_pipeline.labeling.errors import (
    InvalidReviewError,
    LabelingError,
    NotBlindError,
    TaskAnsweredError,
    TaskWithdrawnError,
    UnknownTaskError,
)
from voice_pipeline.labeling.playback import task_audio
from voice_pipeline.labeling.reviews import next_task, submit_review
from voice_pipeline.schema.base import Record
from voice_pipeline.schema.labeling import MisheardSpan, Review
from voice_pipeline.schema.labeling_policy import load_labeling_policy
from voice_pipeline.store.store import Store

TEMPLATES = Path(__file__).parent / "templates"
FILES = {
    "review.html": "text/html; charset=utf-8",
    "review.js": "text/javascript; charset=utf-8",
    "review.css": "text/css; charset=utf-8",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
STATUS: dict[type[LabelingError], int] = {
    UnknownTaskError: 404,
    TaskWithdrawnError: 410,
    TaskAnsweredError: 409,
    NotBlindError: 403,
    InvalidReviewError: 422,
}

Reviewer = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._@-]{0,59}$")]


class Answer(Record):
    """What the page sends for one task."""

    reviewer: Reviewer
    transcript: Annotated[str, Field(max_length=2000)] = ""
    unintelligible: bool = False
    spans: Annotated[tuple[MisheardSpan, ...], Field(max_length=100)] = ()


def router(store: Store) -> APIRouter:
    """Routes `/review` (page) and `/v1/review/…` (its API) on `store`."""
    routes = APIRouter(tags=["review"])

    @routes.get("/review")
    def page() -> Response:
        return _file("review.html")

    @routes.get("/review/{name}")
    def page_file(name: str) -> Response:
        if name not in FILES:
            raise HTTPException(404, f"there is no {name} on the review page")
        return _file(name)

    @routes.get("/v1/review/next")
    def offer(reviewer: Annotated[Reviewer, Query()]) -> Response:
        """200 with the task, or 204 when there is nothing to do for this reviewer."""
        task = next_task(store, load_labeling_policy(store.settings.policy_dir), reviewer)
        return Response(status_code=204) if task is None else JSONResponse(asdict(task), headers=HEADERS)

    @routes.get("/v1/review/audio/{task_id}")
    def audio(task_id: str) -> Response:
        try:
            return Response(task_audio(store, task_id), media_type="audio/flac", headers=HEADERS)
        except LabelingError as error:
            raise _refusal(error) from error

    @routes.post("/v1/review/{task_id}")
    def answer(task_id: str, given: Answer) -> JSONResponse:
        """200 once the answer is on disk: `{"repeated": …}`. What it leads to stays untold."""
        review = Review(task_id=task_id, submitted_at=store.now(), **dict(given))
        try:
            accepted = submit_review(store, load_labeling_policy(store.settings.policy_dir), review)
        except LabelingError as error:
            raise _refusal(error) from error
        return JSONResponse({"repeated": accepted.repeated})

    return routes


def _file(name: str) -> Response:
    return Response((TEMPLATES / name).read_bytes(), media_type=FILES[name], headers=HEADERS)


def _refusal(error: LabelingError) -> HTTPException:
    return HTTPException(STATUS.get(type(error), 500), str(error))
