"""The HTTP face to devices and reviewers: one FastAPI application over one store."""

from __future__ import annotations

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles

from voice_pipeline.capture.erasure import revoke_consent
from voice_pipeline.capture.errors import UnknownConsentError
from voice_pipeline.edge import captures, flags, review, telemetry, transcription
from voice_pipeline.edge.limits import BodyLimit
from voice_pipeline.store.errors import LedgerBrokenError
from voice_pipeline.store.store import Store


def create_app(store: Store) -> FastAPI:
    """Captures, telemetry, flags, transcription, the update repository, consent and the review page.

    Raises:
        LedgerBrokenError: the ledger does not verify, so nobody can tell which model devices should run. Those that run
            one keep it: to them the edge is out of reach, and their lease falls back to the last good model. When it
            breaks later, flags are answered 503 within a minute (`edge.ledger_check`), to the same end.
    """
    store.ledger.verify()
    app = FastAPI(title="voice_pipeline edge", docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(LedgerBrokenError, _broken)
    for part in (captures, telemetry, flags, transcription, review):
        app.include_router(part.router(store))

    @app.post("/v1/consents/{consent_id}/revoke")
    def revoke(consent_id: str) -> dict[str, object]:
        """Take a consent back: everything under it is erased before this answers."""
        try:
            erased = revoke_consent(store, consent_id, actor="device")
        except UnknownConsentError as error:
            raise HTTPException(404, detail=str(error)) from error
        return {"consent_id": consent_id, "clips": len(erased.clip_ids)}

    @app.get("/healthz")
    def health() -> dict[str, object]:
        """Alive, and the ledger's head."""
        return {"status": "ok", "ledger_head": store.ledger.head()}

    repository = store.settings.tuf / "repository"
    repository.mkdir(parents=True, exist_ok=True)
    app.mount("/tuf", StaticFiles(directory=repository), name="tuf")
    return app


async def _broken(_request: Request, error: Exception) -> JSONResponse:
    """503: devices keep what they have until the ledger is restored."""
    return JSONResponse({"detail": str(error)}, status_code=503)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    """422 that names what is wrong without echoing the input, which may be large, personal or no JSON at all."""
    assert isinstance(error, RequestValidationError)
    wrong = [{"field": ".".join(map(str, e["loc"])), "problem": e["msg"]} for e in error.errors()[:10]]
    return JSONResponse({"detail": wrong}, status_code=422)
