"""A device's life when nothing is attacked: leases, shadows, swaps without downloads, reports that arrive."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest

from voice_pipeline.device.client import DeviceClient
from voice_pipeline.device.errors import EdgeUnavailableError, NoModelError
from voice_pipeline.schema.telemetry import TelemetryEvent
from voice_pipeline.store.clock import ManualClock
from voice_pipeline_tests.device.conftest import PHONE, V1, V2, Edge

SPEECH = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
NewDevice = Callable[[], DeviceClient]


def event(clock: ManualClock, number: int) -> TelemetryEvent:
    measures = dict.fromkeys(("snr_db", "loudness_dbfs", "spectral_tilt", "band_low", "band_mid", "band_high"), 0.0)
    return TelemetryEvent(
        event_id=f"event-{number:05}",
        device_id="device-0001",
        at=clock.now(),
        context=PHONE,
        model_version=V1,
        words=3,
        corrected_words=0,
        confidence=0.9,
        latency_ms=5,
        duration_s=1,
        clipping=0,
        speaking_rate=10,
        **measures,
    )


def test_new_device_installs_recognises_and_says_which_model_it_ran(device: DeviceClient) -> None:
    answer = device.transcribe(SPEECH)
    assert 0 <= answer.confidence <= 1
    assert answer.latency_ms > 0
    assert device.recogniser.model_version == V1
    assert device.recogniser.bundle_digest == device.recogniser.manifest.digest


def test_update_to_what_runs_already_does_nothing(device: DeviceClient) -> None:
    before = device.recogniser
    done = device.update()
    assert (done.activated, done.downloaded) == (False, ())
    assert device.recogniser is before


def test_restarted_device_works_without_the_edge(edge: Edge, device: DeviceClient, new_device: NewDevice) -> None:
    edge.url = "http://127.0.0.1:9"
    offline = new_device()
    with pytest.raises(EdgeUnavailableError):
        offline.poll()
    assert offline.recogniser.model_version == V1


def test_rollback_to_the_standby_needs_no_download(edge: Edge, device: DeviceClient, clock: ManualClock) -> None:
    edge.offer(clock.now(), V2)
    edge.assign(V2, reason="TARGETING_MATCH")
    device.poll()
    device.update()
    edge.assign(V1)
    device.poll()
    done = device.update()
    assert (done.model_version, done.activated, done.downloaded) == (V1, True, ())


def test_shadow_waits_in_the_other_slot_and_takes_over_without_a_download(
    edge: Edge, device: DeviceClient, clock: ManualClock
) -> None:
    edge.offer(clock.now(), V2)
    edge.assign(V1, shadow=V2, reason="TARGETING_MATCH")
    device.poll()
    assert device.update().downloaded == (V2,)
    assert device.recogniser.model_version == V1
    assert device.shadow is not None
    assert device.shadow.model_version == V2
    device.shadow.transcribe(SPEECH)
    edge.assign(V2, reason="TARGETING_MATCH")
    device.poll()
    done = device.update()
    assert (done.activated, done.downloaded) == (True, ())
    assert device.shadow is None


def test_lapsed_trial_falls_back_to_the_model_of_everybody(
    edge: Edge, device: DeviceClient, new_device: NewDevice, clock: ManualClock
) -> None:
    edge.offer(clock.now(), V2)
    edge.assign(V2, reason="TARGETING_MATCH", lease=600)
    device.poll()
    device.update()
    clock.advance(timedelta(seconds=600))
    assert new_device().assignment().model_version == V2  # type: ignore[union-attr]
    clock.advance(timedelta(seconds=1))
    for client in (device, new_device()):
        assert client.assignment().model_version == V1  # type: ignore[union-attr]
        client.update()
        assert client.recogniser.model_version == V1


def test_lapsed_shadow_falls_back_to_its_primary_alone(edge: Edge, device: DeviceClient, clock: ManualClock) -> None:
    edge.offer(clock.now(), V2)
    edge.assign(V1, shadow=V2, reason="TARGETING_MATCH", lease=60)
    device.poll()
    device.update()
    clock.advance(timedelta(seconds=61))
    device.update()
    assert device.recogniser.model_version == V1
    assert device.shadow is None


def test_assignment_of_no_model_keeps_what_is_installed(edge: Edge, device: DeviceClient) -> None:
    edge.assign(None, reason="DISABLED")
    device.poll()
    device.update()
    assert device.recogniser.model_version == V1


@pytest.mark.parametrize("answer", [None, [], "x", {"model_version": 3}])
def test_nonsense_from_the_edge_leaves_the_lease_in_force(edge: Edge, device: DeviceClient, answer: object) -> None:
    edge.answer = answer  # type: ignore[assignment]
    with pytest.raises(EdgeUnavailableError):
        device.poll()
    assert device.assignment().model_version == V1  # type: ignore[union-attr]


def test_reports_wait_while_the_edge_is_ill_and_arrive_once_it_is_well(
    edge: Edge, device: DeviceClient, new_device: NewDevice, clock: ManualClock
) -> None:
    edge.status = 503
    device.report([event(clock, number) for number in range(2500)])
    with pytest.raises(EdgeUnavailableError, match="kept"):
        device.flush()
    edge.status = 202
    edge.posted.clear()
    assert device.waiting() == {"telemetry": 2500, "capture": 0}
    assert new_device().flush().sent == 2500
    arrived = [e["event_id"] for path, body in edge.posted if "telemetry" in path for e in json.loads(body)["events"]]
    assert arrived == [f"event-{number:05}" for number in range(2500)]
    assert device.flush().sent == 0


def test_one_event_that_the_edge_refuses_does_not_hold_up_the_others(
    edge: Edge, device: DeviceClient, clock: ManualClock
) -> None:
    edge.refuse = lambda posted: posted["event_id"] in {"event-00003", "event-00017"}
    device.report([event(clock, number) for number in range(40)])
    done = device.flush()
    assert (done.sent, done.refused) == (38, 2)
    assert device.lost() == {"telemetry": 2, "capture": 0}
    assert device.waiting() == {"telemetry": 0, "capture": 0}


def test_an_installed_file_that_cannot_be_read_is_fetched_anew(
    edge: Edge, device: DeviceClient, new_device: NewDevice
) -> None:
    network = device.slots.active().folder / "tokenizer.json"  # type: ignore[union-attr]
    network.unlink()
    network.mkdir()
    restarted = new_device()
    with pytest.raises(NoModelError):
        restarted.transcribe(SPEECH)
    assert restarted.update().downloaded == (V1,)
    assert restarted.transcribe(SPEECH).model_version == V1
