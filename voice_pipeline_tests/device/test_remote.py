"""Local or remote: by the flag, by the person's leave, by what works; and it is told which it was."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import httpx
import numpy as np
import pytest

from voice_pipeline.device.assignment import DeviceAssignment, Flags
from voice_pipeline.device.client import DeviceClient
from voice_pipeline.device.dictation import order
from voice_pipeline.device.errors import EdgeUnavailableError, NoModelError
from voice_pipeline.device.exchange import LONGEST_ANSWER
from voice_pipeline.device.flags import ask_flags
from voice_pipeline.schema.inference import NOTICE_HEADER, InferenceMode
from voice_pipeline.schema.inference_policy import inference_policy
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.speech.errors import EmptyAudioError
from voice_pipeline.speech.wav import read_wav, write_wav
from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.device.conftest import PHONE, V1, V2, Edge

LOCAL, REMOTE = InferenceMode.LOCAL, InferenceMode.REMOTE
SPEECH = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
HEARD = {"text": "heard afar", "confidence": 0.5, "latency_ms": 3.0, "model_version": V2, "bundle_digest": "a" * 64}
AWAY = "http://127.0.0.1:9"
NewDevice = Callable[..., DeviceClient]


def sent_audio(edge: Edge) -> list[bytes]:
    return [body for path, body in edge.posted if path == "/v1/transcriptions"]


@pytest.mark.parametrize("flag", ["local", "remote"])
@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("edge_answers", [False, True])
@pytest.mark.parametrize("installed", [False, True])
def test_who_answers_and_whether_that_was_a_fallback(
    edge: Edge, new_device: NewDevice, flag: str, allowed: bool, edge_answers: bool, installed: bool
) -> None:
    edge.mode, edge.heard = flag, HEARD if edge_answers else None
    device = new_device()
    device.remote_allowed = allowed
    device.poll()
    if installed:
        device.update()
    able = {LOCAL: installed, REMOTE: edge_answers and allowed}
    preferred = REMOTE if flag == "remote" and allowed else LOCAL
    expected = next((one for one in (preferred, LOCAL, REMOTE) if able[one]), None)
    if expected is None:
        with pytest.raises(NoModelError, match="nothing is installed"):
            device.transcribe(SPEECH)
    else:
        told = device.transcribe(SPEECH)
        assert (told.answered, told.fallback) == (expected, expected is not preferred)
        assert told.model_version == (V1 if expected is LOCAL else V2)
        assert (told.text == "heard afar") == (expected is REMOTE)
        assert (told.recognition is None) == (expected is REMOTE)
        assert told.latency_ms > 0
    if not allowed:
        assert not sent_audio(edge), "a voice left the device against its owner's will"


def test_nothing_leaves_the_device_unless_the_person_allows_it_whatever_the_flag_says() -> None:
    assert {mode: order(mode, remote_allowed=False) for mode in InferenceMode} == {LOCAL: (LOCAL,), REMOTE: (LOCAL,)}


def test_leave_is_not_given_by_default_and_counts_from_the_next_dictation_on(edge: Edge, device: DeviceClient) -> None:
    edge.mode, edge.heard = "remote", HEARD
    device.poll()
    assert device.transcribe(SPEECH).answered is LOCAL
    device.remote_allowed = True
    assert device.transcribe(SPEECH).answered is REMOTE
    device.remote_allowed = False
    assert device.transcribe(SPEECH).answered is LOCAL
    assert len(sent_audio(edge)) == 1


def test_the_request_says_under_which_notice_and_nothing_of_who(edge: Edge, device: DeviceClient) -> None:
    edge.mode, edge.heard, device.remote_allowed = "remote", HEARD, True
    device.poll()
    edge.asked.clear()
    device.transcribe(SPEECH)
    (headers,) = edge.asked
    assert headers[NOTICE_HEADER.lower()] in inference_policy(PROJECT_ROOT / "policy").notice_versions
    assert device.device_id not in str(headers)
    assert np.array_equal(read_wav(sent_audio(edge)[0]), read_wav(write_wav(SPEECH)))
    assert device.device_id.encode() not in sent_audio(edge)[0]


def test_the_flag_outlives_a_restart_and_lapses_with_the_lease(
    edge: Edge, device: DeviceClient, new_device: NewDevice, clock: ManualClock
) -> None:
    edge.mode = "remote"
    edge.assign(V1, lease=600)
    device.poll()
    assert new_device().mode() is REMOTE
    clock.advance(timedelta(seconds=601))
    assert new_device().mode() is LOCAL


def test_offline_the_flag_is_honoured_and_the_device_still_dictates(
    edge: Edge, device: DeviceClient, new_device: NewDevice
) -> None:
    edge.mode = "remote"
    device.poll()
    edge.url = AWAY
    offline = new_device()
    offline.remote_allowed = True
    with pytest.raises(EdgeUnavailableError):
        offline.poll()
    told = offline.transcribe(SPEECH)
    assert (offline.mode(), told.answered, told.fallback, told.model_version) == (REMOTE, LOCAL, True, V1)


@pytest.mark.parametrize("mode", [None, 3, "cloud", {}, True])
def test_a_mode_that_nobody_knows_is_local(edge: Edge, device: DeviceClient, mode: object) -> None:
    edge.mode = mode
    device.poll()
    assert device.mode() is LOCAL


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {**HEARD, "confidence": 2},
        {**HEARD, "bundle_digest": "x"},
        {**HEARD, "text": 3},
        {**HEARD, "text": "x" * LONGEST_ANSWER},
    ],
)
def test_nonsense_from_the_edge_is_no_answer(edge: Edge, device: DeviceClient, wrong: dict[str, object]) -> None:
    edge.mode, edge.heard, device.remote_allowed = "remote", wrong, True
    device.poll()
    told = device.transcribe(SPEECH)
    assert (told.answered, told.fallback) == (LOCAL, True)


def test_silence_of_no_length_is_refused_before_anybody_is_asked(edge: Edge, device: DeviceClient) -> None:
    edge.mode, edge.heard, device.remote_allowed = "remote", HEARD, True
    device.poll()
    with pytest.raises(EmptyAudioError):
        device.transcribe(SPEECH[:0])
    assert not sent_audio(edge)


def test_a_poll_whose_answer_still_holds_renews_the_lease(
    edge: Edge, device: DeviceClient, new_device: NewDevice, clock: ManualClock
) -> None:
    edge.mode = "remote"
    edge.assign(V1, lease=600)
    device.poll()
    for _ in range(3):
        clock.advance(timedelta(seconds=500))
        edge.asked.clear()
        restarted = new_device()
        assert restarted.poll().model_version == V1
        assert edge.asked[0]["if-none-match"]
        assert (restarted.mode(), restarted.assignment()) == (REMOTE, restarted.poll())
    edge.assign(V2, lease=600)
    assert device.poll().model_version == V2


def test_an_edge_that_says_unchanged_to_who_never_asked_is_not_believed() -> None:
    unchanged = httpx.MockTransport(lambda request: httpx.Response(304, stream=httpx.ByteStream(b"")))
    with (
        httpx.Client(transport=unchanged) as http,
        pytest.raises(EdgeUnavailableError, match="304"),
    ):
        ask_flags(http, "http://edge", "device-0001", PHONE, Flags(DeviceAssignment(model_version=V1)))
