"""The device against the real edge: its update repository, its flags, its telemetry and capture endpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from voice_pipeline.device.assignment import AssignmentFile, DeviceAssignment, Flags
from voice_pipeline.device.client import DeviceClient
from voice_pipeline.edge.app import create_app
from voice_pipeline.packaging.repository import UpdateRepository
from voice_pipeline.schema.clip import CaptureEvent, FailureMode
from voice_pipeline.schema.consent import ConsentReceipt, Scope
from voice_pipeline.schema.ids import uuid7
from voice_pipeline.speech.audio import encode_wav
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import inbox, telemetry
from voice_pipeline_tests.device.conftest import PHONE, V1
from voice_pipeline_tests.device.test_client import event
from voice_pipeline_tests.packaging.small_models import sign_small_bundle

SPEECH = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)


@pytest.fixture
def client(store: Store, tmp_path: Path) -> Iterator[DeviceClient]:
    root = UpdateRepository(store.settings, store.now()).trusted_root()
    http = TestClient(create_app(store), base_url="http://edge")
    made = DeviceClient(tmp_path / "device", "http://edge", http, "device-0001", PHONE, root, store.clock)
    yield made
    made.close()


def test_edge_without_a_release_assigns_no_model_and_the_device_goes_on(client: DeviceClient) -> None:
    assert client.poll().model_version is None
    assert client.update().activated is False


def test_bundle_travels_over_the_edges_update_repository(store: Store, client: DeviceClient, tmp_path: Path) -> None:
    manifest = sign_small_bundle(store.settings, V1, seed=0, min_app="1.0.0")
    UpdateRepository(store.settings, store.now()).publish(store.settings.bundles / V1, manifest)
    assigned = DeviceAssignment(model_version=V1, bundle_digest=manifest.digest)
    AssignmentFile(tmp_path / "device" / "assignment.json").keep(Flags(assigned), store.now())
    assert client.update().downloaded == (V1,)
    assert client.transcribe(SPEECH).text == client.transcribe(SPEECH).text


def test_telemetry_arrives_once_though_it_is_sent_twice(store: Store, client: DeviceClient) -> None:
    events = [event(store.clock, number) for number in range(30)]  # type: ignore[arg-type]
    for _ in range(2):
        client.report(events)
        assert client.flush().sent == 30
    assert store.database.scalar(select(func.count()).select_from(telemetry)) == 30


def test_offered_clip_is_acknowledged_and_lies_in_the_inbox(store: Store, client: DeviceClient) -> None:
    consent = ConsentReceipt(
        consent_id="consent-0001",
        subject_token="a" * 32,
        scopes=frozenset({Scope.TRANSCRIBE_REVIEW}),
        granted_at=store.now(),
        notice_version="1",
    )
    offered = CaptureEvent(
        event_id="capture-0001",
        clip_id=uuid7(store.now()),
        consent=consent,
        captured_at=store.now(),
        context=PHONE,
        failure_mode=FailureMode.LOW_CONFIDENCE,
    )
    client.offer(offered, encode_wav(SPEECH))
    assert client.flush().sent == 1
    assert store.database.scalar(select(inbox.c.clip_id)) == offered.clip_id
