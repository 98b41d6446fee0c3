"""Flags, consent, updates and health, as a device meets them."""

from __future__ import annotations

import httpx
import pytest
from fastapi.testclient import TestClient

from voice_pipeline.capture.intake import accept
from voice_pipeline.device import flags as device_flags
from voice_pipeline.edge.app import create_app
from voice_pipeline.edge.flags import MODE_FLAG, MODEL_FLAG
from voice_pipeline.edge.server import EdgeServer
from voice_pipeline.store.store import Store
from voice_pipeline_tests.capture.clips import CONTEXT, capture, tone

CONTEXT_BODY = {"context": {"targetingKey": "device-1", **CONTEXT.model_dump(mode="json")}}


@pytest.fixture
def client(store: Store) -> TestClient:
    return TestClient(create_app(store))


def test_devices_and_edge_mean_the_same_flags() -> None:
    assert (device_flags.MODEL_FLAG, device_flags.MODE_FLAG) == (MODEL_FLAG, MODE_FLAG)


def test_without_a_release_the_flag_says_disabled(client: TestClient) -> None:
    answer = client.post(f"/ofrep/v1/evaluate/flags/{MODEL_FLAG}", json=CONTEXT_BODY)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["key"], body["reason"], body["value"]["model_version"]) == (MODEL_FLAG, "DISABLED", None)


def test_a_flag_that_there_is_not_is_not_found(client: TestClient) -> None:
    answer = client.post("/ofrep/v1/evaluate/flags/no-such-flag", json=CONTEXT_BODY)
    assert (answer.status_code, answer.json()["errorCode"]) == (404, "FLAG_NOT_FOUND")


def test_withdrawing_consent_over_http_erases_the_subject(client: TestClient, store: Store) -> None:
    accept(store, capture(1), tone(1))
    answer = client.post("/v1/consents/consent-alice-1/revoke")
    assert answer.status_code == 200
    assert store.vault.erased() == {"token-alice"}
    assert client.post("/v1/consents/consent-nobody/revoke").status_code == 404


def test_the_update_repository_is_served_and_nothing_beside_it(client: TestClient, store: Store) -> None:
    (store.settings.tuf / "repository" / "1.root.json").write_text("{}")
    (store.settings.tuf / "secret.key").write_text("private")
    assert client.get("/tuf/1.root.json").text == "{}"
    assert client.get("/tuf/2.root.json").status_code == 404
    for path in ("/tuf/../secret.key", "/tuf/%2e%2e/secret.key", "/tuf/..%2fsecret.key"):
        assert client.get(path).status_code == 404


def test_the_server_answers_on_loopback_and_stops(store: Store) -> None:
    with EdgeServer(store) as edge:
        assert edge.url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{edge.url}/healthz").json()["status"] == "ok"
        url = edge.url
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")
