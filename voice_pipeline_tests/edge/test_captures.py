"""What a device posts is on disk before it hears 2xx, whatever it posts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from voice_pipeline.capture.ingest import ingest_day
from voice_pipeline.edge.app import create_app
from voice_pipeline.edge.limits import MAX_BODY_BYTES
from voice_pipeline.schema.clip import MAX_CLIP_BYTES, CaptureEvent
from voice_pipeline.schema.consent import Scope
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import inbox, quarantine
from voice_pipeline_tests.capture.clips import DAY, capture, receipt, tone


@pytest.fixture
def client(store: Store) -> TestClient:
    return TestClient(create_app(store))


def _post(client: TestClient, event: CaptureEvent | str, audio: bytes):  # type: ignore[no-untyped-def]
    text = event if isinstance(event, str) else event.model_dump_json()
    return client.post("/v1/captures", data={"event": text}, files={"audio": ("clip.wav", audio, "audio/wav")})


def test_a_posted_clip_is_answered_stored_and_ingested(client: TestClient, store: Store) -> None:
    answer = _post(client, capture(1), tone(1))
    assert answer.status_code == 202
    assert answer.json() == {"clip_id": capture(1).clip_id, "duplicate": False}
    assert store.blobs.exists(store.database.scalar(select(inbox.c.blob_key)))
    assert _post(client, capture(1), tone(1)).json()["duplicate"]
    assert ingest_day(store, DAY).catalogued == 1


def test_a_clip_without_consent_to_listen_is_refused_and_noted(client: TestClient, store: Store) -> None:
    answer = _post(client, capture(1, receipt(scopes=frozenset({Scope.TRAIN}))), tone(1))
    assert answer.status_code == 422
    assert "no_consent" in answer.text
    assert store.database.scalar(select(quarantine.c.reason)) == "no_consent"


def test_a_clip_over_the_limit_is_refused_and_noted(client: TestClient, store: Store) -> None:
    assert _post(client, capture(1), bytes(MAX_CLIP_BYTES + 1)).status_code == 422
    assert store.database.scalar(select(quarantine.c.reason)) == "too_large"


def test_a_body_without_end_is_cut_off(client: TestClient) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="audio"; filename="a"\r\n\r\n'
        for _ in range(100):
            sent += 1_000_000
            yield bytes(1_000_000)

    answer = client.post("/v1/captures", content=endless(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 413
    assert str(MAX_BODY_BYTES) in answer.text


@pytest.mark.parametrize("event", ["", "{}", "[1]", "not json", '{"event_id": NaN}'])
def test_an_event_that_is_none_is_named_wrong_and_nothing_is_stored(
    client: TestClient, store: Store, event: str
) -> None:
    assert _post(client, event, tone(1)).status_code == 422
    assert store.database.scalar(select(func.count()).select_from(inbox)) == 0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    field=st.sampled_from([*CaptureEvent.model_fields, "surplus"]),
    value=st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30), st.lists(st.none())),
)
def test_no_claim_in_an_event_makes_the_edge_fail(client: TestClient, field: str, value: object) -> None:
    event = json.loads(capture(1).model_dump_json()) | {field: value}
    assert _post(client, json.dumps(event), tone(1)).status_code in {202, 422}


def texts(content: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to every text in an event."""
    if isinstance(content, str):
        yield path
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inside:
        yield from texts(value, (*path, key))


@pytest.mark.parametrize("text", ["phone-\ud800", "phone-\0"])
def test_no_text_in_an_event_makes_the_edge_or_the_intake_fail(client: TestClient, store: Store, text: str) -> None:
    """Half a character, which JSON can say and no file holds, and the control character that ends strings in C."""
    event = json.loads(capture(1).model_dump_json()) | {"model_version": "m-1", "hypothesis": "yes"}
    taken = 0
    for number, path in enumerate(texts(event)):
        changed = json.loads(json.dumps(event | {"event_id": f"event-{number:04d}", "clip_id": str(uuid4())}))
        changed["consent"] |= {"consent_id": f"consent-{number}", "subject_token": f"token-{number}"}
        holder = changed
        for part in path[:-1]:
            holder = holder[part]
        holder[path[-1]] = text
        answer = _post(client, json.dumps(changed), tone(1))
        assert answer.status_code in {202, 422}
        taken += answer.status_code == 202
    assert ingest_day(store, DAY).catalogued == taken
