"""Remote dictation: audio in, text out, with the live model, for devices that cannot do it themselves.

Promises to the speaker: nothing is heard before the caller has named the privacy notice under which the speaker agreed
to remote processing, and the policy still counts it; audio and text live in memory only, for the length of the request,
and are in no file, database, log line, error or cache; the request carries no device id and no pseudonym, and uvicorn's
access log leaves it out, so that what was said, and that something was said, is tied to nobody here. The receipt of the
consent stays on the device, which stops asking when it is withdrawn. `remote_allowed: false` in `policy/inference.yaml`
ends it for everybody at once.

Promises to the device: the text is that of the live release's bundle, which passed the gate that a device has
(`load_bundle`: signature, digest, golden vectors); more than `AT_ONCE` requests are refused at once (503), before their
audio is read, so that flags and telemetry are never kept waiting and memory holds no more than so many clips; a body
that is not there after `BODY_SECONDS` gives its place back (408).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict

from fastapi import APIRouter, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from voice_pipeline.capture.admission import RefusedAudioError, decode_clip
from voice_pipeline.device.errors import DeviceError
from voice_pipeline.device.recogniser import DeviceRecogniser, load_bundle
from voice_pipeline.device.remote import REMOTE_SECONDS
from voice_pipeline.edge.inference import InferenceModes
from voice_pipeline.release.gates.evidence import find_bundle
from voice_pipeline.schema.clip import MAX_CLIP_BYTES
from voice_pipeline.schema.inference import NOTICE_HEADER, Transcription
from voice_pipeline.schema.policy_file import PolicyError
from voice_pipeline.schema.publication import SIGNING_PUBLIC_KEY
from voice_pipeline.store.releases import live
from voice_pipeline.store.store import Store
from voice_pipeline.trust import TrustError

AT_ONCE = 8
BODY_SECONDS = REMOTE_SECONDS
"""The device has given up by then; it answers itself."""
KEPT = 2
RETRY = {"Retry-After": "1"}
PATH = "/v1/transcriptions"


class NothingLiveError(Exception):
    """No model can transcribe now."""


class _Unseen(logging.Filter):
    """Drops access log lines of this route: they hold network addresses. uvicorn's arguments are address, method,
    path, HTTP version, status.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return not (isinstance(record.args, tuple) and any(str(one).startswith(PATH) for one in record.args))


_UNSEEN = _Unseen()


class LiveModel:
    """The recogniser of the release that is live at the moment of asking; the one before is kept for a rollback.

    Safe to ask from many threads: a bundle is loaded once, and ONNX Runtime's sessions run side by side.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loaded: OrderedDict[str, DeviceRecogniser] = OrderedDict()
        self._lock = threading.Lock()

    def recogniser(self) -> DeviceRecogniser:
        """Raises:
        NothingLiveError: no release is live, or its bundle does not pass the gate.
        """
        release = live(self._store)
        if release is None:
            raise NothingLiveError("no model is live; dictate on the device")
        with self._lock:
            if release.bundle_digest not in self._loaded:
                self._loaded[release.bundle_digest] = self._load(release.model_version, release.bundle_digest)
            self._loaded.move_to_end(release.bundle_digest)
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)
            return self._loaded[release.bundle_digest]

    def _load(self, model_version: str, bundle_digest: str) -> DeviceRecogniser:
        bundle = find_bundle(self._store, model_version)
        if bundle is None:
            raise NothingLiveError(f"live model {model_version} has no bundle in the catalogue")
        try:
            return load_bundle(
                bundle.folder, (self._store.settings.keys / SIGNING_PUBLIC_KEY).read_bytes(), bundle_digest
            )
        except (TrustError, DeviceError, OSError) as error:
            raise NothingLiveError(f"live model {model_version} is not run: {error}") from error


def router(store: Store) -> APIRouter:
    """Route `/v1/transcriptions` on `store`."""
    routes = APIRouter(tags=["transcription"])
    model, modes = LiveModel(store), InferenceModes(store)
    places = threading.BoundedSemaphore(AT_ONCE)

    logging.getLogger("uvicorn.access").addFilter(_UNSEEN)

    @routes.post(PATH)
    async def transcribe(request: Request) -> JSONResponse:
        """Transcribe the body: one clip, WAV PCM16 or FLAC, 16 kHz mono, within the limits of a capture.

        403 without the header `Remote-Processing-Notice`; 408 too slow; 413 too large; 422 no such audio; 503 nothing
        live, or busy.
        """
        _require_consent(modes, request.headers.get(NOTICE_HEADER))
        if not places.acquire(blocking=False):
            raise HTTPException(503, detail="too many transcriptions at once; dictate on the device", headers=RETRY)
        try:
            audio = await _body(request)
            heard = await run_in_threadpool(_transcribe, model, audio)
        finally:
            places.release()
        return JSONResponse(heard.model_dump(mode="json"), headers={"Cache-Control": "no-store"})

    return routes


def _require_consent(modes: InferenceModes, notice: str | None) -> None:
    """Raises 403 unless the speaker agreed under a notice that counts."""
    try:
        policy = modes.policy()
    except PolicyError as error:
        raise HTTPException(503, detail=str(error), headers=RETRY) from error
    if not policy.remote_allowed:
        raise HTTPException(403, detail="remote processing is switched off; dictate on the device")
    if notice is None or notice not in policy.notice_versions:
        raise HTTPException(
            403,
            detail=f"header {NOTICE_HEADER} has to name the privacy notice under which the speaker agreed to remote "
            f"processing, one of: {', '.join(sorted(policy.notice_versions))}",
        )


async def _body(request: Request) -> bytes:
    """The body, in memory: an upload by form would be spooled to a file.

    Raises 413 beyond the largest clip, 408 when it takes longer than `BODY_SECONDS`, 400 when the caller hangs up.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_CLIP_BYTES:
                    raise HTTPException(413, detail=f"audio has more than {MAX_CLIP_BYTES} bytes; send a shorter clip")
    except TimeoutError as error:
        raise HTTPException(
            408, detail=f"audio was not there after {BODY_SECONDS:g} s; dictate on the device"
        ) from error
    except ClientDisconnect as error:
        raise HTTPException(400, detail="the caller hung up; send the clip again") from error
    return bytes(body)


def _transcribe(model: LiveModel, audio: bytes) -> Transcription:
    try:
        samples = decode_clip(audio)
    except RefusedAudioError as error:
        raise HTTPException(422, detail=f"{error.refusal.reason.value}: {error}") from error
    try:
        recogniser = model.recogniser()
    except NothingLiveError as error:
        raise HTTPException(503, detail=str(error), headers=RETRY) from error
    heard = recogniser.transcribe(samples)
    return Transcription(
        text=heard.text,
        confidence=heard.confidence,
        latency_ms=heard.latency_ms,
        model_version=recogniser.model_version,
        bundle_digest=recogniser.bundle_digest,
    )
