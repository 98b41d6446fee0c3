"""Each test plays an edge that means ill by its answers: slow, swollen or impossible to keep. The device goes on."""

from __future__ import annotations

import gzip
import itertools
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuf.api.exceptions import DownloadError

from voice_pipeline.device import exchange, flags, remote, sending
from voice_pipeline.device.assignment import AssignmentFile, DeviceAssignment, Flags
from voice_pipeline.device.client import DeviceClient
from voice_pipeline.device.errors import EdgeUnavailableError
from voice_pipeline.device.exchange import Deadline, post
from voice_pipeline.device.fetching import DeadlineFetcher
from voice_pipeline.device.flags import ask_flags, read_flags
from voice_pipeline.device.outbox import Kind, Letter
from voice_pipeline.schema.inference import InferenceMode
from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.device.conftest import PHONE, V1, Edge

SPEECH = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
HURRY, LATE = 0.4, 10.0
"""Seconds: the deadline of these tests, and when a test is lost (any time between will do)."""
Answering = Callable[[Callable[[socket.socket], None]], str]


@pytest.fixture
def answering() -> Iterator[Answering]:
    """Starts a server that answers every connection that way, and gives its URL."""
    listeners: list[socket.socket] = []

    def start(answer: Callable[[socket.socket], None]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.recv(65_536)
                answer(connection)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.close()


def dribble_body(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(0.02)


def dribble_head(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
    while True:
        connection.sendall(b"a")
        time.sleep(0.02)


def never(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


DRIBBLES = pytest.mark.parametrize("dribble", [dribble_body, dribble_head, never])


def within(seconds: float, work: Callable[[], object]) -> object:
    """What `work` gives or raises; fails if it does not end in time."""
    came: list[object] = []

    def run() -> None:
        try:
            came.append(work())
        except Exception as error:  # noqa: BLE001 raised below
            came.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert came, f"still waiting after {seconds:g} s"
    if isinstance(came[0], Exception):
        raise came[0]
    return came[0]


def none_exchanges() -> bool:
    """Whether the threads of all exchanges end in time."""
    until = time.monotonic() + LATE
    while any(thread.name == "device-exchange" for thread in threading.enumerate()):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((remote, "REMOTE_SECONDS"), (flags, "FLAGS_SECONDS"), (sending, "SENDING_SECONDS")):
        monkeypatch.setattr(module, name, HURRY)


@DRIBBLES
@pytest.mark.usefixtures("slow")
def test_dictation_falls_back_to_the_local_model_while_the_edge_dribbles(
    edge: Edge, device: DeviceClient, answering: Answering, dribble: Callable[[socket.socket], None]
) -> None:
    edge.mode = "remote"
    device.poll()
    device.remote_allowed, device._edge_url = True, answering(dribble)
    told = within(LATE, lambda: device.transcribe(SPEECH))
    assert (told.answered, told.fallback) == (InferenceMode.LOCAL, True)  # type: ignore[attr-defined]


@DRIBBLES
@pytest.mark.usefixtures("slow")
def test_a_poll_of_a_dribbling_edge_is_given_up(
    device: DeviceClient, answering: Answering, dribble: Callable[[socket.socket], None]
) -> None:
    device._edge_url = answering(dribble)
    with pytest.raises(EdgeUnavailableError, match=r"not there after the 0\.4 s"):
        within(LATE, device.poll)
    assert device.assignment().model_version == V1  # type: ignore[union-attr]


@DRIBBLES
@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("kind", ["telemetry", "capture"])
def test_a_flush_to_a_dribbling_edge_is_given_up_and_what_waits_is_kept(
    device: DeviceClient, answering: Answering, dribble: Callable[[socket.socket], None], kind: Kind
) -> None:
    device._edge_url = answering(dribble)
    device.outbox.add(kind, [Letter("event-0001", "{}", b"sound" if kind == "capture" else None)])
    with pytest.raises(EdgeUnavailableError, match="what waits is kept"):
        within(LATE, device.flush)
    assert [letter.event_id for letter in device.outbox.next(kind, 10)] == ["event-0001"]


@pytest.mark.usefixtures("slow")
def test_the_deadline_of_a_flush_is_for_all_its_requests(device: DeviceClient, answering: Answering) -> None:
    """An edge that refuses each batch, halved again and again, and takes its time each time."""

    def refuse(connection: socket.socket) -> None:
        time.sleep(HURRY / 4)
        connection.sendall(b"HTTP/1.1 422 No\r\ncontent-length: 0\r\n\r\n")

    device._edge_url = answering(refuse)
    device.outbox.add("telemetry", [Letter(f"event-{number:04d}", "{}") for number in range(500)])
    with pytest.raises(EdgeUnavailableError, match=r"not there after the 0\.4 s"):
        within(LATE, device.flush)


@DRIBBLES
def test_what_was_given_up_leaves_no_thread_and_no_connection(
    answering: Answering, dribble: Callable[[socket.socket], None]
) -> None:
    url = answering(dribble)
    with httpx.Client(timeout=60, limits=httpx.Limits(max_connections=3)) as http:
        for _ in range(5):
            with pytest.raises(EdgeUnavailableError):
                post(http, Deadline(0.2), url, content=b"x")
            with pytest.raises(DownloadError, match="not there after"):
                list(DeadlineFetcher(http, 0.2).fetch(url))
        assert none_exchanges()
        assert "0 active" in str(http._transport._pool)  # type: ignore[attr-defined]


def test_a_connection_that_was_good_once_can_be_shut_down_too(answering: Answering) -> None:
    """The server answers well, keeps the connection, and dribbles to the next request on it."""

    def good_then_bad(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        if connection.recv(65_536):
            dribble_head(connection)

    url = answering(good_then_bad)
    with httpx.Client(timeout=60) as http:
        assert post(http, Deadline(LATE), url, content=b"x").success
        with suppress(EdgeUnavailableError):
            post(http, Deadline(HURRY), url, content=b"x")
        assert none_exchanges()


def test_a_download_that_is_not_read_to_its_end_leaves_no_thread(answering: Answering) -> None:
    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        while True:
            connection.sendall(bytes(65_536))

    with httpx.Client(timeout=60) as http:
        chunks = DeadlineFetcher(http, 60).fetch(answering(endless))
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]
        assert none_exchanges()


@pytest.mark.parametrize("levels", [1, 2])
def test_an_answer_that_swells_is_not_unpacked(answering: Answering, levels: int) -> None:
    bomb = bytes(50_000_000)
    for _ in range(levels):
        bomb = gzip.compress(bomb, 9)
    asked: list[str] = []
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: {', '.join(['gzip'] * levels)}\r\ncontent-length: {len(bomb)}\r\n\r\n"
    url = answering(lambda connection: connection.sendall(head.encode() + bomb))
    note = {"request": [lambda request: asked.append(request.headers["accept-encoding"])]}
    tracemalloc.start()
    try:
        with (
            httpx.Client(timeout=20, event_hooks=note) as http,
            pytest.raises(EdgeUnavailableError, match="an encoding that nobody asked for"),
        ):
            post(http, Deadline(20), url, content=b"x")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert asked == ["identity"]


@pytest.mark.parametrize("tag", ['"\xe9"', '"\U0001f600"', '"' + "x" * 300 + '"', 'W/"a b"', "\x7f"])
def test_a_tag_that_cannot_be_sent_back_is_not_kept_and_cuts_nobody_off(answering: Answering, tag: str) -> None:
    body = json.dumps({"flags": [{"key": "dictation-model", "value": {"model_version": V1}}]}).encode()
    head = f"HTTP/1.1 200 OK\r\netag: {tag}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    url = answering(lambda connection: connection.sendall(head + body))
    with httpx.Client(timeout=5) as http:
        told = ask_flags(http, url, "device-0001", PHONE)
        assert told.etag == ""
        kept_by_an_older_client = Flags(told.assignment, told.mode, tag)
        assert ask_flags(http, url, "device-0001", PHONE, kept_by_an_older_client).assignment.model_version == V1


IDS = ["model_version", "release_id", "shadow_model_version", "shadow_release_id"]
DIGESTS = ["bundle_digest", "shadow_bundle_digest"]
WRONG = ["\ud800", "", "..", "../m", "a/b", "m\n", "m\x00", " m", "x" * 200, "é"]


@pytest.mark.parametrize(
    ("field", "value"), [*itertools.product([*IDS, "reason", *DIGESTS], WRONG), *((d, "a" * 63) for d in DIGESTS)]
)
def test_an_assignment_with_what_is_no_name_is_no_answer(field: str, value: str) -> None:
    with pytest.raises(ValueError, match="holds no assignment"):
        read_flags(json.dumps({"flags": [{"key": "dictation-model", "value": {field: value}}]}).encode())


@pytest.mark.parametrize("field", ["model_version", "reason"])
def test_an_assignment_that_cannot_be_written_down_is_an_error_of_the_device(
    edge: Edge, device: DeviceClient, field: str
) -> None:
    edge.answer[field] = "\ud800"
    with pytest.raises(EdgeUnavailableError, match="holds no assignment"):
        device.poll()
    assert device.assignment().model_version == V1  # type: ignore[union-attr]


TEXTS = st.sampled_from([V1, f"{V1}-r1", "a" * 64, "DEFAULT", "\ud800", "m\x00"]) | st.text(max_size=30)
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 2**64])
TOLD = st.fixed_dictionaries(
    {},
    optional={
        name: (NUMBERS if name == "lease_seconds" else TEXTS) | st.none() for name in DeviceAssignment.model_fields
    },
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=TOLD)
def test_whatever_is_assigned_is_kept_or_refused(tmp_path: Path, clock: ManualClock, value: dict[str, object]) -> None:
    body = json.dumps({"flags": [{"key": "dictation-model", "value": value}]}).encode()
    try:
        told = read_flags(body)
    except ValueError:
        return
    file = AssignmentFile(tmp_path / "assignment.json")
    file.keep(told, clock.now())
    assert file.latest() == told
    assert file.effective(clock.now()) is not None


def test_the_longest_answer_is_counted_as_it_arrives(answering: Answering) -> None:
    sent = [0]

    def endless(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        while True:
            sent[0] += connection.send(bytes(65_536))

    with httpx.Client(timeout=5) as http, pytest.raises(EdgeUnavailableError, match="more than 256000 bytes"):
        post(http, Deadline(20), answering(endless), content=b"x")
    assert sent[0] < exchange.LONGEST_ANSWER + 12_000_000
