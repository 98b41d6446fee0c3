"""Flags as the OFREP specification and its Python client see them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from voice_pipeline.edge.app import create_app
from voice_pipeline.edge.flags import FLAGS, MODE_FLAG, MODEL_FLAG
from voice_pipeline.edge.server import EdgeServer
from voice_pipeline.schema.clip import DeviceClass
from voice_pipeline.schema.inference import NOTICE_HEADER, InferenceMode
from voice_pipeline.schema.inference_policy import FILE_NAME, InferencePolicy, inference_policy
from voice_pipeline.schema.policy_file import PolicyError
from voice_pipeline.settings import PROJECT_ROOT
from voice_pipeline.store.store import Store
from voice_pipeline_tests.fleet.field import V1

URL = "/ofrep/v1/evaluate/flags"
Released = tuple[Store, dict[str, str]]


def asked(app_version: str = "99.0.0", device_class: str = "phone_mid", device: str = "device-1") -> dict[str, Any]:
    return {"context": {"targetingKey": device, "app_version": app_version, "device_class": device_class}}


@pytest.fixture
def client(released: Released) -> TestClient:
    return TestClient(create_app(released[0]))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tmp_path / "policy" / FILE_NAME


def mode(client: TestClient, **context: str) -> tuple[str, str]:
    body = client.post(f"{URL}/{MODE_FLAG}", json=asked(**context)).json()
    assert body["variant"] == body["value"]
    return body["value"], body["reason"]


def test_dictation_is_local_unless_the_policy_says_otherwise(client: TestClient, policy: Path) -> None:
    assert mode(client) == ("local", "DEFAULT")
    assert mode(client, device_class="toaster") == ("local", "DEFAULT")
    policy.write_text(
        "{version: 1, remote_allowed: true, notice_versions: [remote-1], by_device_class: {phone_low: remote}}"
    )
    assert mode(client) == ("local", "DEFAULT")
    assert mode(client, device_class="phone_low") == ("remote", "TARGETING_MATCH")


def test_an_app_too_old_for_every_model_is_told_to_ask_the_edge(client: TestClient, policy: Path) -> None:
    assert mode(client, app_version="0.1.0") == ("remote", "TARGETING_MATCH")
    policy.write_text("version: 1")
    assert mode(client, app_version="0.1.0") == ("local", "DISABLED")


def test_one_line_ends_remote_dictation_whatever_stands_beside_it(client: TestClient, policy: Path) -> None:
    shipped = policy.read_text()
    assert "remote_allowed: true" in shipped
    assert "where_no_model_fits: remote" in shipped
    policy.write_text(shipped.replace("remote_allowed: true", "remote_allowed: false"))
    assert mode(client, app_version="0.1.0") == ("local", "DISABLED")
    said = client.post("/v1/transcriptions", content=b"x", headers={NOTICE_HEADER: "remote-1"})
    assert (said.status_code, "switched off" in said.text) == (403, True)


def test_where_nothing_is_live_there_is_nothing_to_ask_for(store: Store) -> None:
    assert mode(TestClient(create_app(store))) == ("local", "DEFAULT")


def test_a_policy_that_became_invalid_sends_nobody_s_voice_anywhere(client: TestClient, policy: Path) -> None:
    assert mode(client, app_version="0.1.0") == ("remote", "TARGETING_MATCH")
    policy.write_text(policy.read_text().replace("remote_allowed: true", "remote_allowed: nope"))
    failed = client.post(f"{URL}/{MODE_FLAG}", json=asked(app_version="0.1.0"))
    assert (failed.status_code, failed.json()["errorCode"]) == (500, "GENERAL")
    said = client.post("/v1/transcriptions", content=b"x", headers={NOTICE_HEADER: "remote-1"})
    assert (said.status_code, FILE_NAME in said.text) == (503, True)


def test_an_invalid_policy_at_the_start_leaves_models_assigned(client: TestClient, policy: Path) -> None:
    policy.write_text("version: 1\ndefault: cloud")
    single = client.post(f"{URL}/{MODE_FLAG}", json=asked())
    assert (single.status_code, single.json()["errorCode"]) == (500, "GENERAL")
    assert FILE_NAME in single.json()["errorDetails"]
    model, failed = client.post(URL, json=asked()).json()["flags"]
    assert (model["value"]["model_version"], failed["key"], failed["errorCode"]) == (V1, MODE_FLAG, "GENERAL")


@pytest.mark.parametrize(
    "wrong",
    [
        {"remote_allowed": True},
        {"default": "cloud"},
        {"by_device_class": {"toaster": "local"}},
        {"version": 2},
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    InferencePolicy.model_validate({"version": 1})
    with pytest.raises(ValueError, match=r"remote|Input should|notice"):
        InferencePolicy.model_validate({"version": 1, **wrong})


def test_the_policy_that_ships_is_local_by_default_and_names_its_file_when_it_is_gone(tmp_path: Path) -> None:
    shipped = inference_policy(PROJECT_ROOT / "policy")
    assert shipped.default is InferenceMode.LOCAL
    assert not shipped.by_device_class
    with pytest.raises(PolicyError, match=FILE_NAME):
        inference_policy(tmp_path)


@pytest.mark.parametrize("path", [URL, f"{URL}/{MODEL_FLAG}", f"{URL}/{MODE_FLAG}"])
def test_an_answer_that_still_holds_is_304_on_both_kinds_of_request(
    client: TestClient, policy: Path, path: str
) -> None:
    first = client.post(path, json=asked(app_version="0.1.0"))
    etag = first.headers["etag"]
    for tags in (etag, f"W/{etag}", f'"other", {etag}'):
        again = client.post(path, json=asked(app_version="0.1.0"), headers={"If-None-Match": tags})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    for tags in ('"other"', etag.strip('"'), ""):
        assert client.post(path, json=asked(app_version="0.1.0"), headers={"If-None-Match": tags}).status_code == 200
    other = client.post(path, json=asked(), headers={"If-None-Match": etag})
    assert other.status_code == 200


@pytest.mark.parametrize("path", ["", f"/{MODEL_FLAG}", f"/{MODE_FLAG}"])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "PARSE_ERROR"),
        (b"{", "PARSE_ERROR"),
        (b"\xff\xfe", "PARSE_ERROR"),
        (b"[" * 100_000, "PARSE_ERROR"),
        (b"[]", "INVALID_CONTEXT"),
        (b'{"context": 3}', "INVALID_CONTEXT"),
        (b"{}", "TARGETING_KEY_MISSING"),
        (b'{"context": {"targetingKey": ""}}', "TARGETING_KEY_MISSING"),
        (b'{"context": {"targetingKey": 7}}', "TARGETING_KEY_MISSING"),
        (b'{"context": {"targetingKey": "phone-\\ud800"}}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": "phone-\\udfff\\ud83d"}}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": "phone-\\u0000"}}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": "phone-1", "app_version": "1.\\udc00"}}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": "phone-1", "app_version": "1.0\\u0000"}}', "INVALID_CONTEXT"),
        (b'{"context": {"targetingKey": "phone-1", "device_class": "\\ud800"}}', "INVALID_CONTEXT"),
    ],
)
def test_a_request_that_is_none_is_answered_in_the_protocols_terms(
    client: TestClient, path: str, body: bytes, code: str
) -> None:
    answer = client.post(URL + path, content=body)
    assert (answer.status_code, answer.json()["errorCode"]) == (400, code)
    assert answer.json().get("key") == (path.strip("/") or None)


@pytest.mark.parametrize("device", ["T\u00e9l\u00e9phone 7", "\u96fb\u8a71", "\U0001f4f1", "d" * 500])
def test_a_device_id_in_any_script_is_answered(client: TestClient, device: str) -> None:
    body = asked(device=device)
    body["context"]["nickname"] = "\ud800"  # a field that is not ours is ignored, whatever it holds
    for path in ("", f"/{MODEL_FLAG}", f"/{MODE_FLAG}"):
        assert client.post(URL + path, content=json.dumps(body)).status_code == 200


def test_bulk_names_every_flag_once_as_the_single_requests_do(client: TestClient) -> None:
    bulk = client.post(URL, json=asked()).json()["flags"]
    assert [flag["key"] for flag in bulk] == list(FLAGS)
    assert bulk == [client.post(f"{URL}/{key}", json=asked()).json() for key in FLAGS]


# --- the OpenFeature client of others ---------------------------------------------------------------------------------


@pytest.fixture
def others(released: Released) -> Iterator[Any]:
    """The OpenFeature SDK over its OFREP provider, on a real server."""
    from openfeature import api
    from openfeature.contrib.provider.ofrep import OFREPProvider

    with EdgeServer(released[0]) as edge:
        api.set_provider(OFREPProvider(edge.url), domain="edge")
        yield api.get_client(domain="edge")
    api.clear_providers()


def context(app_version: str = "99.0.0", device: str | None = "device-1") -> Any:
    from openfeature.evaluation_context import EvaluationContext

    return EvaluationContext(device, {"app_version": app_version, "device_class": DeviceClass.LAPTOP.value})


def test_openfeature_reads_both_flags_by_their_types(others: Any) -> None:
    model = others.get_object_details(MODEL_FLAG, {}, context())
    assert (model.value["model_version"], model.variant, model.reason, model.error_code) == (V1, V1, "DEFAULT", None)
    told = others.get_string_details(MODE_FLAG, "local", context("0.1.0"))
    assert (told.value, told.reason, told.error_code) == ("remote", "TARGETING_MATCH", None)
    assert others.get_string_value(MODE_FLAG, "remote", context()) == "local"


def test_openfeature_asking_for_another_type_gets_its_default(others: Any) -> None:
    from openfeature.exception import ErrorCode

    for details in (
        others.get_boolean_details(MODEL_FLAG, True, context()),
        others.get_boolean_details(MODE_FLAG, True, context()),
        others.get_string_details(MODEL_FLAG, "x", context()),
        others.get_object_details(MODE_FLAG, {"x": 1}, context()),
    ):
        assert details.error_code == ErrorCode.TYPE_MISMATCH
        assert details.value in (True, "x", {"x": 1})


def test_openfeature_meets_unknown_flags_and_missing_keys_as_such(others: Any) -> None:
    from openfeature.exception import ErrorCode

    unknown = others.get_string_details("dictation-colour", "blue", context())
    assert (unknown.value, unknown.error_code) == ("blue", ErrorCode.FLAG_NOT_FOUND)
    for nobody in (context(device=None), None):
        nameless = others.get_string_details(MODE_FLAG, "local", nobody)
        assert (nameless.value, nameless.error_code) == ("local", ErrorCode.TARGETING_KEY_MISSING)


def test_openfeature_without_a_server_gives_the_default(released: Released) -> None:
    from openfeature import api
    from openfeature.contrib.provider.ofrep import OFREPProvider
    from openfeature.exception import ErrorCode

    with EdgeServer(released[0]) as edge:
        api.set_provider(OFREPProvider(edge.url, timeout=2), domain="gone")
    client = api.get_client(domain="gone")
    details = client.get_string_details(MODE_FLAG, "local", context())
    assert (details.value, details.error_code) == ("local", ErrorCode.GENERAL)
    assert client.get_object_value(MODEL_FLAG, {"model_version": "m"}, context()) == {"model_version": "m"}
    api.clear_providers()
