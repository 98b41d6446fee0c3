"""A Dagster webserver on a home, and what its pages ask it for: runs, as Materialize and Re-execute launch them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voice_pipeline.settings import PROJECT_ROOT, Settings

AT_ONCE = """telemetry: {enabled: false}
nux: {enabled: false}
run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}
"""
"""Runs start without the daemon's queue: no daemon is there whose sensors would act meanwhile."""

LOCATION = {"repositoryLocationName": "voice_pipeline", "repositoryName": "__repository__"}
LAUNCHED = "__typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }"
MATERIALIZE = (
    f"mutation($params: ExecutionParams!) {{ launchPipelineExecution(executionParams: $params) {{ {LAUNCHED} }} }}"
)
AGAIN = (
    "mutation($params: ReexecutionParams!) "
    f"{{ launchPipelineReexecution(reexecutionParams: $params) {{ {LAUNCHED} }} }}"
)
RUN = """query($id: ID!) { runOrError(runId: $id) { ... on Run { status eventConnection(limit: 1000) { events {
  __typename ... on ExecutionStepFailureEvent { stepKey error { message causes { message } } } } } } } }"""
PATIENCE_S = 240


@dataclass(frozen=True)
class Finished:
    """A run that ended: whether well, and the error of the step that failed, as its page shows it."""

    run_id: str
    success: bool
    reason: str


@dataclass(frozen=True)
class Webserver:
    url: str

    def materialize(
        self, assets: Sequence[str], model: str, checks: Sequence[tuple[str, str]] | None = None, **tags: str
    ) -> Finished:
        """Launch and wait, as `Materialize` on these assets for the partition `model` does.

        Args:
            checks: (asset, check) that are selected; None leaves it to Dagster, () deselects all.
            tags: further tags of the run, by name without `voice_pipeline/`.
        """
        selector: dict[str, Any] = {**LOCATION, "pipelineName": "__ASSET_JOB"}
        selector["assetSelection"] = [{"path": [asset]} for asset in assets]
        if checks is not None:
            selector["assetCheckSelection"] = [{"assetKey": {"path": [a]}, "name": name} for a, name in checks]
        told = {"dagster/partition": model, **{f"voice_pipeline/{name}": value for name, value in tags.items()}}
        metadata = {"tags": [{"key": key, "value": value} for key, value in told.items()]}
        params = {"mode": "default", "selector": selector, "executionMetadata": metadata, "runConfigData": {}}
        return self._finished(self.ask(MATERIALIZE, params=params)["launchPipelineExecution"])

    def execute_again(self, run_id: str) -> Finished:
        """Launch and wait, as `Re-execute all` on a run's page does."""
        answer = self.ask(AGAIN, params={"parentRunId": run_id, "strategy": "ALL_STEPS"})
        return self._finished(answer["launchPipelineReexecution"])

    def run_ids(self) -> set[str]:
        """Of every run that was launched here."""
        found = self.ask("{ runsOrError { ... on Runs { results { runId } } } }")["runsOrError"]["results"]
        return {run["runId"] for run in found}

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        """The data of a GraphQL answer; an error fails the test with what it says."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error
        assert "errors" not in answer, answer["errors"]
        found: dict[str, Any] = answer["data"]
        return found

    def _finished(self, launched: dict[str, Any]) -> Finished:
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run_id = launched["run"]["runId"]
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            run = self.ask(RUN, id=run_id)["runOrError"]
            if run["status"] in {"SUCCESS", "FAILURE", "CANCELED"}:
                failed = [e["error"] for e in run["eventConnection"]["events"] if "stepKey" in e]
                reasons = [" ".join([e["message"], *(c["message"] for c in e["causes"])]) for e in failed]
                return Finished(run_id, run["status"] == "SUCCESS", " ".join(reasons))
            time.sleep(0.5)
        raise AssertionError(f"run {run_id} did not end in {PATIENCE_S} s")


@contextmanager
def webserver(settings: Settings) -> Iterator[Webserver]:
    """The project's definitions over a home, with the policies of `settings`."""
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    (settings.dagster_home / "dagster.yaml").write_text(AT_ONCE)
    home = {"VOICE_PIPELINE_HOME": settings.root, "VOICE_PIPELINE_POLICY_DIR": settings.policy_dir}
    home |= {"DAGSTER_HOME": settings.dagster_home, "DVC_SITE_CACHE_DIR": settings.root / "dvc-site-cache"}
    port = _free_port()
    command = [str(Path(sys.executable).parent / "dagster-webserver"), "-w", str(PROJECT_ROOT / "workspace.yaml")]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with (settings.root / "webserver.log").open("w") as log:
        environment = {**os.environ, **{name: str(path) for name, path in home.items()}}
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
        try:
            until_it_answers(f"http://127.0.0.1:{port}", server)
            yield Webserver(f"http://127.0.0.1:{port}")
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=60)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def until_it_answers(url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait for the web server at `url`, which `server` leads to."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert server.poll() is None, "the webserver ended"
        try:
            with urllib.request.urlopen(f"{url}/server_info", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(1)
    raise AssertionError(f"the webserver did not answer in {PATIENCE_S} s")
