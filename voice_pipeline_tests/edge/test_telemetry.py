"""Telemetry is counted once, whatever the network repeats, and never poisons what is counted."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from voice_pipeline.edge.app import create_app
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import devices, telemetry
from voice_pipeline_tests.capture.clips import CONTEXT

MODEL = "m-20261101-00000000"


@pytest.fixture
def client(store: Store) -> TestClient:
    return TestClient(create_app(store))


def event(number: int, at: datetime, device: str = "device-1", **changes: Any) -> dict[str, Any]:
    """Dictation `number` as a device sends it."""
    figures = {
        "words": 5, "corrected_words": 1, "confidence": 0.9, "latency_ms": 80.0, "duration_s": 2.0, "snr_db": 20.0,
        "loudness_dbfs": -20.0, "clipping": 0.0, "speaking_rate": 12.0, "spectral_tilt": -6.0, "band_low": 0.4,
        "band_mid": 0.4, "band_high": 0.2,
    }  # fmt: skip
    return {
        "event_id": f"dictation-{number:06d}",
        "device_id": device,
        "at": at.isoformat(),
        "context": CONTEXT.model_dump(mode="json"),
        "model_version": MODEL,
        **figures,
        **changes,
    }


def _post(client: TestClient, *events: dict[str, Any]):  # type: ignore[no-untyped-def]
    return client.post(
        "/v1/telemetry", content=json.dumps({"events": events}), headers={"content-type": "application/json"}
    )


def test_each_event_counts_once(client: TestClient, store: Store) -> None:
    now = store.now()
    assert _post(client, event(1, now), event(2, now)).json() == {"accepted": 2, "duplicates": 0}
    assert _post(client, event(2, now), event(3, now), event(3, now)).json() == {"accepted": 1, "duplicates": 2}
    assert store.database.scalar(select(func.count()).select_from(telemetry)) == 3


def test_devices_keep_the_newest_model_however_late_an_old_report_comes(client: TestClient, store: Store) -> None:
    now = store.now()
    _post(client, event(1, now, model_version="m-new"))
    _post(client, event(2, now - timedelta(hours=1), model_version="m-old"))
    row = store.database.row(select(devices))
    assert row is not None
    assert (row["model_version"], row["last_seen"]) == ("m-new", now.isoformat())


def test_a_clock_that_runs_ahead_names_no_future_day_and_silences_nothing(client: TestClient, store: Store) -> None:
    now = store.now()
    _post(client, event(1, now + timedelta(days=400), model_version="m-ahead"))
    row = store.database.row(select(telemetry))
    assert row is not None
    assert (row["day"], row["at"], row["received_at"]) == (now.date().isoformat(), now.isoformat(), now.isoformat())
    assert datetime.fromisoformat(row["event"]["at"]) == now
    store.clock.advance(timedelta(minutes=1))  # type: ignore[attr-defined]
    _post(client, event(2, store.now(), model_version="m-next"))
    assert store.database.scalar(select(devices.c.model_version)) == "m-next"


@pytest.mark.parametrize(
    "changes",
    [
        *({"snr_db": float("nan")}, {"latency_ms": float("inf")}, {"confidence": 1.5}, {"words": -1}),
        *({"text": "call home"}, {"device_id": "phone-\ud800"}, {"model_version": "m\n1"}, {"release_id": "\ud800"}),
        *({"device_id": ""}, {"device_id": "d" * 81}, {"model_version": "m" * 81}, {"event_id": "dictation-\0"}),
        *({"words": 9 * 10**18}, {"corrected_words": 10_001}, {"shadow_corrected_words": -1}, {"duration_s": 3_601}),
        *({"latency_ms": 600_001}, {"shadow_latency_ms": 1e300}, {"snr_db": 1e30}),
    ],
)
def test_a_batch_with_a_bad_event_is_refused_whole(client: TestClient, store: Store, changes: dict[str, Any]) -> None:
    answer = _post(client, event(1, store.now()), event(2, store.now(), **changes))
    assert answer.status_code == 422
    assert store.database.scalar(select(func.count()).select_from(telemetry)) == 0


SHADOW = {
    "shadow_model_version": "m-2",
    "shadow_corrected_words": 0,
    "shadow_latency_ms": 9.0,
    "shadow_confidence": 0.9,
}


@pytest.mark.parametrize("missing", SHADOW)
def test_a_shadow_is_told_whole_or_not_at_all(client: TestClient, store: Store, missing: str) -> None:
    """One that lacks its figures would count as one that made no error."""
    part = {name: value for name, value in SHADOW.items() if name != missing}
    for half in (part, {missing: SHADOW[missing]}):
        answer = _post(client, event(1, store.now(), **half))
        assert answer.status_code == 422
        assert "event dictation-000001 has a shadow without" in answer.text
        assert "or none where the shadow did not answer" in answer.text
    assert _post(client, event(1, store.now(), **SHADOW), event(2, store.now())).json()["accepted"] == 2


def test_more_than_five_thousand_events_are_refused(client: TestClient, store: Store) -> None:
    assert _post(client, *(event(n, store.now()) for n in range(5_001))).status_code in {413, 422}
    assert store.database.scalar(select(func.count()).select_from(telemetry)) == 0


def test_five_thousand_events_go_in_at_once(client: TestClient, store: Store) -> None:
    answer = _post(client, *(event(n, store.now(), device=f"device-{n % 300}") for n in range(5_000)))
    assert answer.json() == {"accepted": 5_000, "duplicates": 0}
    assert store.database.scalar(select(func.count()).select_from(devices)) == 300


def test_a_report_from_before_there_were_clocks_is_refused(client: TestClient, store: Store) -> None:
    answer = _post(client, {**event(1, store.now()), "at": "0001-01-01T00:00:00+14:00"})
    assert answer.status_code == 422
