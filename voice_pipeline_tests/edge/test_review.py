"""The review page and its API: what a person hears is allowed, what they send is kept once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from voice_pipeline.edge.app import create_app
from voice_pipeline.edge.server import EdgeServer
from voice_pipeline.labeling.tasks import open_tasks
from voice_pipeline.labeling.triage import triage_day
from voice_pipeline.schema.labeling_policy import LabelingPolicy
from voice_pipeline.speech.audio import SAMPLE_RATE, decode, encode_flac
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import consents, label_tasks, reviews
from voice_pipeline_tests.labeling.catalogue import add_captures

DAY = "2026-11-02"
CHROMIUM = Path("/usr/bin/chromium")
POLICY = LabelingPolicy.model_validate({"review": {"hidden_preview_share": 0}})


@pytest.fixture
def clip_ids(store: Store) -> list[str]:
    """Three captures with audio, all with an open task."""
    ids = list(add_captures(store, 3, DAY, confidence=0.9))
    time_s = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    tone = (0.3 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)
    for clip_id in ids:
        store.blobs.put(f"clips/{clip_id}", store.vault.encrypt("subject-1", encode_flac(tone), clip_id))
    triage_day(store, POLICY, DAY, [])
    open_tasks(store, POLICY)
    return ids


@pytest.fixture
def client(store: Store) -> TestClient:
    return TestClient(create_app(store))


def offered(client: TestClient, reviewer: str = "ada") -> dict[str, object]:
    response = client.get("/v1/review/next", params={"reviewer": reviewer})
    assert response.status_code == 200
    return dict(response.json())


def test_a_reviewer_gets_a_task_hears_it_and_answers(client: TestClient, store: Store, clip_ids: list[str]) -> None:
    task = offered(client)
    assert (task["preview"], task["review_pass"], task["remaining"]) == ("one two stop", "first", 3)
    audio = client.get(f"/v1/review/audio/{task['task_id']}")
    assert audio.headers["content-type"] == "audio/flac"
    assert audio.headers["cache-control"] == "no-store"
    assert decode(audio.content).size == 2 * SAMPLE_RATE
    answer = {"reviewer": "ada", "transcript": "one two stop"}
    assert client.post(f"/v1/review/{task['task_id']}", json=answer).json() == {"repeated": False}
    assert client.post(f"/v1/review/{task['task_id']}", json=answer).json() == {"repeated": True}
    assert len(store.database.rows(select(reviews))) == 1
    assert offered(client)["task_id"] != task["task_id"]


def test_when_all_is_answered_there_is_nothing_to_do(client: TestClient, clip_ids: list[str]) -> None:
    for _ in clip_ids:
        task = offered(client)
        client.post(f"/v1/review/{task['task_id']}", json={"reviewer": "ada", "transcript": "one two stop"})
    assert client.get("/v1/review/next", params={"reviewer": "ada"}).status_code == 204


def test_refusals_say_what_is_wrong(client: TestClient, clip_ids: list[str]) -> None:
    task = offered(client)["task_id"]
    url = f"/v1/review/{task}"
    assert client.get("/v1/review/next", params={"reviewer": "<script>"}).status_code == 422
    assert client.post("/v1/review/task-none", json={"reviewer": "ada", "transcript": "x"}).status_code == 404
    assert client.post(url, json={"reviewer": "ada", "transcript": " "}).status_code == 422
    assert client.post(url, json={"reviewer": "ada", "transcript": "x" * 2001}).status_code == 422
    assert client.post(url, content=b"{", headers={"content-type": "application/json"}).status_code == 422
    backwards = [{"start_s": 2, "end_s": 1, "heard": "", "said": ""}]
    response = client.post(url, json={"reviewer": "ada", "transcript": "stop", "spans": backwards})
    assert response.status_code == 422
    assert str(task) in response.json()["detail"]
    client.post(url, json={"reviewer": "ada", "transcript": "stop"})
    assert client.post(url, json={"reviewer": "ben", "transcript": "start"}).status_code == 409


def test_audio_of_a_revoked_or_erased_clip_is_gone_at_once(
    client: TestClient, store: Store, clip_ids: list[str]
) -> None:
    task = str(offered(client)["task_id"])
    with store.database.write() as connection:
        connection.execute(update(consents).values(revoked_at="2026-11-02"))
    assert client.get(f"/v1/review/audio/{task}").status_code == 410
    assert client.post(f"/v1/review/{task}", json={"reviewer": "ada", "transcript": "stop"}).status_code == 410
    with store.database.write() as connection:
        connection.execute(update(consents).values(revoked_at=None))
    store.vault.destroy("subject-1")
    assert client.get(f"/v1/review/audio/{task}").status_code == 410
    assert client.get("/v1/review/audio/task-none").status_code == 404


def test_the_page_admits_no_foreign_content_and_no_other_files(client: TestClient) -> None:
    page = client.get("/review")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert client.get("/review/review.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/review/review.css").status_code == 200
    assert client.get("/review/secrets.txt").status_code == 404
    assert client.get("/review/..%2Freview.py").status_code == 404


@pytest.fixture
def live_url(store: Store, clip_ids: list[str]) -> Iterator[str]:
    with EdgeServer(store) as server:
        yield server.url


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs a browser at /usr/bin/chromium")
def test_a_person_reviews_clips_in_a_browser_with_the_keyboard_alone(
    live_url: str, store: Store, clip_ids: list[str]
) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    problems: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{live_url}/review")
        page.keyboard.type("ada")
        page.keyboard.press("Enter")
        page.wait_for_selector("#preview:has-text('one two stop')")
        page.wait_for_function("() => document.getElementById('player').duration > 1.9")
        page.keyboard.press("Alt+p")
        page.keyboard.type(" nine")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#progress:has-text('2 waiting for ada')")
        page.wait_for_function("() => document.getElementById('transcript').value === ''")
        page.keyboard.press("Alt+u")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#progress:has-text('1 waiting for ada')")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#problem:has-text('Write what was said')")
        page.keyboard.type("stop")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#done:not([hidden])")
        browser.close()
    assert problems == []
    answers = {(r["transcript"], r["unintelligible"]) for r in store.database.rows(select(reviews))}
    assert answers == {("one two stop nine", False), ("", True), ("stop", False)}
    firsts = select(label_tasks.c.state).where(label_tasks.c.review_pass == "first")
    assert {row["state"] for row in store.database.rows(firsts)} == {"done"}
