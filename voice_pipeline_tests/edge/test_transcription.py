"""Remote dictation: only for those who agreed, only with the live model, and nothing of it stays behind."""

from __future__ import annotations

import io
import logging
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
import uvicorn
from fastapi import Request
from fastapi.testclient import TestClient

from voice_pipeline.edge import transcription
from voice_pipeline.edge.app import create_app
from voice_pipeline.schema.clip import MAX_CLIP_BYTES
from voice_pipeline.schema.inference import NOTICE_HEADER, Transcription
from voice_pipeline.schema.inference_policy import FILE_NAME
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.speech.audio import encode_flac, encode_wav
from voice_pipeline.speech.confidence import ConfidenceModel
from voice_pipeline.speech.recogniser import OnnxRecogniser
from voice_pipeline.speech.tokenizer import CharTokenizer
from voice_pipeline.store.store import Store
from voice_pipeline_tests.edge.test_telemetry import event
from voice_pipeline_tests.fleet.field import V1, V2, move

URL = "/v1/transcriptions"
AGREED = {NOTICE_HEADER: "remote-1"}
SPEECH = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
WAV = encode_wav(SPEECH)
Released = tuple[Store, dict[str, str]]


@pytest.fixture
def client(released: Released) -> TestClient:
    return TestClient(create_app(released[0]))


def heard(client: TestClient, audio: bytes = WAV) -> Transcription:
    answer = client.post(URL, content=audio, headers=AGREED)
    assert answer.status_code == 200, answer.text
    return Transcription.model_validate(answer.json())


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("encode", [encode_wav, encode_flac])
def test_the_answer_is_that_of_the_live_bundle(client: TestClient, released: Released, encode) -> None:  # type: ignore[no-untyped-def]
    store, digests = released
    told = heard(client, encode(SPEECH))
    folder = store.settings.bundles / V1
    confidence = ConfidenceModel.from_json((folder / "confidence.json").read_text())
    own = OnnxRecogniser(folder / "model.onnx", CharTokenizer(), confidence, frame_shift_s=0.04)
    expected = own.transcribe(SPEECH)
    assert (told.model_version, told.bundle_digest) == (V1, digests[V1])
    assert told.text == expected.text
    assert told.confidence == pytest.approx(expected.confidence, abs=1e-3)
    assert expected.text, "a model that says nothing shows nothing"


@pytest.mark.parametrize("notice", [None, "", "remote-0", "true", "remote-1, remote-2"])
def test_nobody_is_heard_who_does_not_say_under_which_notice_they_agreed(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, notice: str | None
) -> None:
    async def never(_request: object) -> bytes:
        raise AssertionError("audio was read before consent was known")

    monkeypatch.setattr(transcription, "_body", never)
    answer = client.post(URL, content=WAV, headers={} if notice is None else {NOTICE_HEADER: notice})
    assert answer.status_code == 403
    assert NOTICE_HEADER in answer.json()["detail"]


def test_the_policy_ends_it_for_everybody_at_once(client: TestClient, tmp_path: Path) -> None:
    heard(client)
    (tmp_path / "policy" / FILE_NAME).write_text("version: 1")
    answer = client.post(URL, content=WAV, headers=AGREED)
    assert (answer.status_code, "switched off" in answer.json()["detail"]) == (403, True)


def test_without_a_live_model_it_says_so(store: Store) -> None:
    answer = TestClient(create_app(store)).post(URL, content=WAV, headers=AGREED)
    assert answer.status_code == 503
    assert "no model is live" in answer.json()["detail"]
    assert "retry-after" in answer.headers


def _eight_bit() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, SPEECH, 8_000, format="WAV")
    return buffer.getvalue()


def _claims_hours() -> bytes:
    """A FLAC header that names 2^36-1 samples."""
    data = bytearray(encode_flac(SPEECH))
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    return bytes(data)


@pytest.mark.parametrize(
    ("audio", "status", "says"),
    [
        (bytes(MAX_CLIP_BYTES + 1), 413, "bytes"),
        (b"", 422, "empty"),
        (b"no audio at all", 422, "unreadable_audio"),
        (WAV[:-100], 422, "cut short"),
        (encode_wav(SPEECH[:0]), 422, "empty"),
        (encode_wav(np.zeros((16_000 * 31), np.float32)), 422, "too_long"),
        (encode_flac(np.zeros((16_000 * 600), np.float32)), 422, "too_long"),
        (_claims_hours(), 422, "too_long"),
        (_eight_bit(), 422, "wrong_sample_rate"),
        (b"RIFF" + struct.pack("<I", 4) + b"WAVE", 422, "unreadable_audio"),
    ],
)
def test_audio_beyond_the_limits_of_a_capture_is_refused_with_its_reason(
    client: TestClient, audio: bytes, status: int, says: str
) -> None:
    answer = client.post(URL, content=audio, headers=AGREED)
    assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text


def test_the_model_follows_the_release_and_its_rollback(client: TestClient, released: Released) -> None:
    store, digests = released
    assert heard(client).model_version == V1
    move(store, V2, digests[V2], ReleaseState.CANDIDATE, ReleaseState.CANARY_25)
    assert heard(client).model_version == V1
    move(store, V1, digests[V1], ReleaseState.SUPERSEDED)
    move(store, V2, digests[V2], ReleaseState.PRODUCTION)
    second = heard(client)
    assert (second.model_version, second.bundle_digest) == (V2, digests[V2])
    move(store, V2, digests[V2], ReleaseState.ROLLED_BACK)
    move(store, V1, digests[V1], ReleaseState.PRODUCTION)
    assert heard(client).model_version == V1


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json", "golden/*.wav", "confidence.json"])
def test_a_bundle_that_was_touched_transcribes_nothing(client: TestClient, released: Released, file: str) -> None:
    path = next((released[0].settings.bundles / V1).glob(file))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    answer = client.post(URL, content=WAV, headers=AGREED)
    assert answer.status_code == 503
    assert V1 in answer.json()["detail"]


def test_neither_audio_nor_text_stays_on_a_disk_or_in_a_log(
    client: TestClient, released: Released, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    caplog.set_level(logging.DEBUG)
    long = encode_wav(np.random.default_rng(1).normal(0, 0.1, 16_000 * 29).astype(np.float32))
    warm = heard(client)
    before = files_under(tmp_path)
    rows = {table: count(released[0], table) for table in ("inbox", "telemetry", "ledger")}
    opened: list[str] = []
    watching = [True]

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching[0] and event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)
    told = heard(client, long)
    watching[0] = False
    assert told.model_version == warm.model_version
    assert not opened, "a file was opened for writing"
    after = files_under(tmp_path)
    assert all(name.endswith(("-shm", "-wal")) for name in after if after[name] != before.get(name))
    assert {table: count(released[0], table) for table in rows} == rows
    printed = "".join(capfd.readouterr())
    assert told.text
    assert told.text not in caplog.text + printed
    assert b"RIFF" not in (caplog.text + printed).encode()


def count(store: Store, table: str) -> int:
    with store.database.read() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())


def test_the_answer_lies_in_no_cache(client: TestClient) -> None:
    assert client.post(URL, content=WAV, headers=AGREED).headers["cache-control"] == "no-store"


def test_many_at_once_get_the_same_answer_from_one_loaded_model(
    released: Released, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    real = transcription.load_bundle

    def counted(folder: Path, *rest: object) -> object:
        loads.append(folder.name)
        return real(folder, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(transcription, "load_bundle", counted)
    model = transcription.LiveModel(released[0])
    with ThreadPoolExecutor(8) as pool:
        texts = set(pool.map(lambda _: model.recogniser().transcribe(SPEECH).text, range(40)))
    assert len(texts) == 1
    assert loads == [V1]


def test_more_than_it_can_do_at_once_is_refused_at_once_while_flags_and_telemetry_are_answered(
    released: Released, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every place is taken by transcriptions that go on until flags and telemetry were answered."""
    enough, busy = threading.Event(), threading.Semaphore(0)
    real = transcription._transcribe

    def again_and_again(model: transcription.LiveModel, audio: bytes) -> Transcription:
        told = real(model, audio)
        busy.release()
        until = time.monotonic() + 30
        while not enough.is_set():
            assert time.monotonic() < until, "nobody was answered beside transcriptions"
            told = real(model, audio)
        return told

    monkeypatch.setattr(transcription, "_transcribe", again_and_again)
    with TestClient(create_app(released[0])) as client, ThreadPoolExecutor(transcription.AT_ONCE) as pool:
        running = [pool.submit(client.post, URL, content=WAV, headers=AGREED) for _ in range(transcription.AT_ONCE)]
        for _ in running:
            assert busy.acquire(timeout=30)
        refused = client.post(URL, content=WAV, headers=AGREED)
        asked = {"context": {"targetingKey": "device-1", "app_version": "99.0.0", "device_class": "phone_mid"}}
        flags = client.post("/ofrep/v1/evaluate/flags", json=asked)
        report = {"events": [event(1, released[0].now())]}
        reported = client.post("/v1/telemetry", json=report)
        done = [future.done() for future in running]
        enough.set()
        assert {future.result().status_code for future in running} == {200}
        assert not any(done), "they were answered after transcriptions, not beside them"
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert (flags.status_code, reported.status_code) == (200, 202), reported.text
        assert client.post(URL, content=WAV, headers=AGREED).status_code == 200


@contextmanager
def serving(released: Released) -> Iterator[tuple[str, int]]:
    """The edge on a port of its own."""
    server = uvicorn.Server(uvicorn.Config(create_app(released[0]), host="127.0.0.1", port=0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[:2]
    server.should_exit = True
    thread.join(10)


def begun(address: tuple[str, int], length: int = len(WAV)) -> socket.socket:
    """A connection with the head of a request and the first bytes of its body."""
    connection = socket.create_connection(address, timeout=30)
    head = f"POST {URL} HTTP/1.1\r\nhost: edge\r\n{NOTICE_HEADER}: remote-1\r\ncontent-length: {length}\r\n\r\n"
    connection.sendall(head.encode() + WAV[:100])
    return connection


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Counts the bodies that are being read."""
    begins, real = threading.Semaphore(0), transcription._body

    async def noted(request: Request) -> bytes:
        begins.release()
        return await real(request)

    monkeypatch.setattr(transcription, "_body", noted)
    return begins


def test_no_more_bodies_are_read_than_there_are_places(released: Released, reading: threading.Semaphore) -> None:
    with serving(released) as address, ExitStack() as connections:
        held = [connections.enter_context(begun(address)) for _ in range(transcription.AT_ONCE)]
        for _ in held:
            assert reading.acquire(timeout=30)
        late = connections.enter_context(begun(address))
        assert late.recv(12) == b"HTTP/1.1 503"
        assert not reading.acquire(blocking=False), "a body was read for which there was no place"
        for connection in held:
            connection.sendall(WAV[100:])
            assert connection.recv(12) == b"HTTP/1.1 200"


def test_a_body_that_does_not_come_gives_its_place_back(
    released: Released, reading: threading.Semaphore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then, in every place."""
    monkeypatch.setattr(transcription, "BODY_SECONDS", 0.5)
    with serving(released) as address, ExitStack() as connections:
        held = [connections.enter_context(begun(address)) for _ in range(transcription.AT_ONCE)]
        for _ in held:
            assert reading.acquire(timeout=30)
        until = time.monotonic() + 10
        while time.monotonic() < until and not select.select(held, [], [], 0.05)[0]:
            for connection in held:
                connection.sendall(b"x")
        for connection in held:
            connection.settimeout(10)
            assert connection.recv(12) == b"HTTP/1.1 408"
        assert httpx.post("http://{}:{}{}".format(*address, URL), content=WAV, headers=AGREED).status_code == 200


def test_callers_who_hang_up_leave_their_places_and_no_trace(
    released: Released, reading: threading.Semaphore, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(released) as address:
        for _ in range(transcription.AT_ONCE + 1):
            with begun(address):
                assert reading.acquire(timeout=30)
        until = time.monotonic() + 10
        status = 503
        while status == 503 and time.monotonic() < until:
            status = httpx.post("http://{}:{}{}".format(*address, URL), content=WAV, headers=AGREED).status_code
        assert status == 200
    assert "Traceback" not in "".join(capfd.readouterr())


def test_the_servers_access_log_tells_of_other_requests_only(
    released: Released, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(released) as address:
        url = "http://{}:{}".format(*address)
        assert httpx.post(url + URL, content=WAV, headers=AGREED).status_code == 200
        assert httpx.post(url + URL + "?x=1", content=WAV).status_code == 403
        assert httpx.get(url + "/healthz").status_code == 200
    printed = "".join(capfd.readouterr())
    assert "/healthz" in printed
    assert URL not in printed
