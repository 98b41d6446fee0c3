"""What a person sees in the Dagster UI on the home of a told story, in a real browser."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from voice_pipeline_tests.browser.conftest import CHROMIUM
from voice_pipeline_tests.browser.webserver import until_it_answers

pytestmark = [
    pytest.mark.browser,
    pytest.mark.story,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs Debian's chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def ui(story_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `voice-pipeline dev webserver` on a copy of the story's home."""
    home = tmp_path_factory.mktemp("ui") / "home"
    shutil.copytree(story_home, home)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "voice_pipeline.cli", "dev", "--home", str(home), "webserver"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = (home / "webserver.log").open("w")
    server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        until_it_answers(url, server)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)
        log.close()


def test_the_lineage_shows_all_eight_stages(page: Any, ui: str) -> None:
    page.goto(f"{ui}/asset-groups")
    for stage in ("capture", "labeling", "dataset", "features", "training", "packaging", "release", "monitoring"):
        page.get_by_text(stage, exact=True).first.wait_for()


def test_the_live_release_is_told_on_its_asset(page: Any, ui: str) -> None:
    page.goto(f"{ui}/assets/production_release?view=overview")
    page.get_by_text("release_id").first.wait_for()
    page.get_by_text("production", exact=True).first.wait_for()


def test_the_automation_page_shows_every_sensor_of_the_loop(page: Any, ui: str) -> None:
    page.goto(f"{ui}/automation")
    for sensor in ("new_captures_sensor", "retrain_decision_sensor", "rollout_sensor", "telemetry_sensor"):
        page.get_by_text(sensor).first.wait_for()
