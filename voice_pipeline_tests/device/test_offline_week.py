"""Seven days without the edge, with restarts, then all that happened arrives once and in its order."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.device.assignment import AssignmentFile, DeviceAssignment, Flags
from voice_pipeline.device.client import DeviceClient
from voice_pipeline.device.errors import EdgeUnavailableError, UpdateUnavailableError
from voice_pipeline.device.outbox import LIMITS
from voice_pipeline.schema.clip import MAX_CLIP_BYTES, CaptureEvent, FailureMode
from voice_pipeline.schema.consent import ConsentReceipt, Scope
from voice_pipeline.schema.ids import uuid7
from voice_pipeline.schema.inference import InferenceMode
from voice_pipeline.speech.wav import write_wav
from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.device.conftest import PHONE, V1, V2, Edge
from voice_pipeline_tests.device.test_client import event

SPEECH = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
DICTATIONS_A_DAY, CLIPS_A_DAY, DAYS = 30, 9, 7
WAL_BYTES = 4_500_000
"""A thousand pages, after which SQLite writes its log back."""
AWAY = "http://127.0.0.1:9"
NewDevice = Callable[[], DeviceClient]


def clip(clock: ManualClock, number: int) -> CaptureEvent:
    consent = ConsentReceipt(
        consent_id="consent-0001",
        subject_token="a" * 32,
        scopes=frozenset({Scope.TRANSCRIBE_REVIEW}),
        granted_at=clock.now(),
        notice_version="1",
    )
    return CaptureEvent(
        event_id=f"capture-{number:05}",
        clip_id=uuid7(clock.now()),
        consent=consent,
        captured_at=clock.now(),
        context=PHONE,
        failure_mode=FailureMode.LOW_CONFIDENCE,
    )


def posted(edge: Edge, path: str) -> list[bytes]:
    return [body for to, body in edge.posted if to == path]


def test_a_week_offline_with_dictation_restarts_and_a_lapsing_trial_arrives_once_and_in_order(
    edge: Edge, device: DeviceClient, new_device: NewDevice, clock: ManualClock, tmp_path: Path
) -> None:
    edge.offer(clock.now(), V2)
    edge.assign(V2, reason="TARGETING_MATCH", lease=3 * 86_400)
    device.poll()
    device.update()
    home_url, edge.url = edge.url, AWAY
    models, told, offered = [], 0, 0
    for day in range(DAYS):
        today = new_device()
        for number in range(DICTATIONS_A_DAY):
            clock.advance(timedelta(seconds=86_400 // DICTATIONS_A_DAY))
            for attempt in (today.poll, today.update, today.flush):
                with suppress(EdgeUnavailableError, UpdateUnavailableError):
                    attempt()
            heard = today.transcribe(SPEECH)
            models.append(heard.model_version)
            assert (heard.answered, heard.fallback) == (InferenceMode.LOCAL, False)
            assert today.report([event(clock, told)])
            told += 1
            if number < CLIPS_A_DAY:
                assert today.offer(clip(clock, offered), write_wav(SPEECH))
                offered += 1
        today.close()
        assert day or models == [V2] * DICTATIONS_A_DAY
    assert offered > LIMITS["capture"], "the week has to be too long for the clips"
    switched = models.index(V1)
    assert models == [V2] * switched + [V1] * (len(models) - switched), "the trial lapsed to the model of everybody"
    assert switched == 3 * DICTATIONS_A_DAY
    edge.url = home_url
    last = new_device()
    assert (last.outbox.waiting("telemetry"), last.outbox.lost("telemetry")) == (told, 0)
    assert last.outbox.waiting("capture") == LIMITS["capture"]
    assert last.outbox.lost("capture") == offered - LIMITS["capture"]
    size = sum(file.stat().st_size for file in tmp_path.glob("device/outbox.db*"))
    assert size < 2 * (LIMITS["capture"] * len(write_wav(SPEECH)) + told * 1_000) + WAL_BYTES
    edge.posted.clear()
    last.poll()
    assert last.flush().sent == told + LIMITS["capture"]
    assert last.flush().sent == 0
    assert new_device().flush().sent == 0
    reports = [e["event_id"] for body in posted(edge, "/v1/telemetry") for e in json.loads(body)["events"]]
    assert reports == [f"event-{number:05}" for number in range(told)]
    clips = posted(edge, "/v1/captures")
    newest = range(offered - LIMITS["capture"], offered)
    assert [f"capture-{n:05}".encode() in body for n, body in zip(newest, clips, strict=True)] == [True] * len(clips)


def test_the_limits_keep_an_outbox_of_the_largest_clips_below_what_a_phone_can_spare() -> None:
    assert LIMITS["capture"] * MAX_CLIP_BYTES + LIMITS["telemetry"] * 1_500 <= 150_000_000


def test_a_clock_set_back_ends_a_trial_at_once_and_offline_it_stays_ended_until_that_time_comes_again(
    edge: Edge, device: DeviceClient, new_device: NewDevice, clock: ManualClock
) -> None:
    edge.offer(clock.now(), V2)
    edge.assign(V2, reason="TARGETING_MATCH", lease=600)
    edge.mode = "remote"
    device.poll()
    device.update()
    clock._now -= timedelta(days=400)  # what no test clock does by itself
    for client in (device, new_device()):
        assert client.assignment().model_version == V1  # type: ignore[union-attr]
        assert client.mode() is InferenceMode.LOCAL
        client.update()
        assert client.transcribe(SPEECH).model_version == V1
    edge.assign(V2, reason="TARGETING_MATCH", lease=600)
    device.poll()
    device.update()
    assert device.transcribe(SPEECH).model_version == V2, "a word from the edge, by whatever clock, is a new lease"


@settings(max_examples=60, deadline=None)
@given(
    lease=st.one_of(st.integers(-10, 10**6), st.just(10**18)),
    moved=st.integers(-(10**9), 10**9),
    trial=st.booleans(),
)
@pytest.mark.parametrize("mode", list(InferenceMode))
def test_a_lease_is_in_force_from_its_receipt_to_its_end_and_at_no_other_time(
    tmp_path_factory: pytest.TempPathFactory, mode: InferenceMode, lease: int, moved: int, trial: bool
) -> None:
    file = AssignmentFile(tmp_path_factory.mktemp("lease") / "assignment.json")
    now = datetime(2026, 11, 2, tzinfo=UTC)
    file.keep(Flags(DeviceAssignment(model_version=V1)), now - timedelta(days=1))
    reason = "TARGETING_MATCH" if trial else "DEFAULT"
    file.keep(Flags(DeviceAssignment(model_version=V2, lease_seconds=lease, reason=reason), mode), now)
    found = file.effective(now + timedelta(seconds=moved))
    assert found is not None
    if 0 <= moved <= min(lease, 31 * 86_400):
        assert (found.assignment.model_version, found.mode) == (V2, mode)
    else:
        assert (found.assignment.model_version, found.mode) == (V1 if trial else V2, InferenceMode.LOCAL)
