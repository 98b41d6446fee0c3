"""An edge on a ledger that does not verify sends no device anywhere; devices keep the model that they run."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete, func, update

from voice_pipeline.device.assignment import AssignmentFile
from voice_pipeline.device.flags import MODE_FLAG, MODEL_FLAG, read_flags
from voice_pipeline.edge.app import create_app
from voice_pipeline.edge.server import EdgeServer
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.store.checkpoint import CHECKPOINT
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.errors import LedgerBrokenError
from voice_pipeline.store.releases import TRANSITION
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import ledger
from voice_pipeline_tests.fleet.field import V1, V2, move
from voice_pipeline_tests.store.test_checkpoint import put, rows_of

BODY = {"context": {"targetingKey": "device-1", "app_version": "99.0.0", "device_class": "phone_mid"}}
Released = tuple[Store, dict[str, str]]


def ask(client: TestClient) -> Any:
    return client.post(f"/ofrep/v1/evaluate/flags/{MODEL_FLAG}", json=BODY)


def poll(client: TestClient, name: str, lease: AssignmentFile, clock: ManualClock) -> str | None:
    """The model that a device runs after it asked; any answer but 2xx leaves it with its lease (`device.flags`)."""
    answer = client.post("/ofrep/v1/evaluate/flags", json={"context": {**BODY["context"], "targetingKey": name}})
    if answer.is_success:
        lease.keep(read_flags(answer.content), clock.now())
    flags = lease.effective(clock.now())
    return flags.assignment.model_version if flags else None


def forge(store: Store) -> None:
    """Somebody makes V2 the model of the live release."""
    with store.database.write() as connection:
        connection.execute(
            update(ledger).values(payload=func.replace(ledger.c.payload, V1, V2)).where(ledger.c.kind == TRANSITION)
        )


def test_it_does_not_start_when_a_line_was_changed(released: Released) -> None:
    forge(released[0])
    with pytest.raises(LedgerBrokenError, match=r"ledger line \d+ was changed; .*docs/runbook.md"):
        EdgeServer(released[0])


def test_it_does_not_start_when_the_last_line_was_removed(released: Released) -> None:
    store = released[0]
    with store.database.write() as connection:
        connection.execute(delete(ledger).where(ledger.c.seq == store.ledger.head()))
    with pytest.raises(LedgerBrokenError, match="the last ones were removed"):
        create_app(Store.open(store.settings, store.clock))


def test_it_does_not_start_without_the_note(released: Released) -> None:
    store = released[0]
    (store.settings.root / CHECKPOINT).unlink()
    with pytest.raises(LedgerBrokenError, match=f"{CHECKPOINT} is missing"):
        create_app(Store.open(store.settings, store.clock))


def test_one_that_runs_answers_503_within_a_minute_so_that_devices_fall_back_and_flags_again_once_it_verifies(
    released: Released, clock: ManualClock, tmp_path: Path
) -> None:
    """Not at each question: what was verified holds for a minute."""
    store, digests = released
    client = TestClient(create_app(store), raise_server_exceptions=False)
    devices = {name: AssignmentFile(tmp_path / name) for name in map("device-{}".format, range(12))}
    assert {poll(client, *device, clock) for device in devices.items()} == {V1}
    move(store, V2, digests[V2], ReleaseState.CANDIDATE, ReleaseState.CANARY_50)
    on_canary = next(device for device in devices.items() if poll(client, *device, clock) == V2)
    lines = rows_of(store)
    forge(store)
    clock.advance(timedelta(seconds=59))
    assert poll(client, *on_canary, clock) == V2
    clock.advance(timedelta(seconds=1))
    for path in (f"/{MODEL_FLAG}", f"/{MODE_FLAG}", ""):
        answer = client.post(f"/ofrep/v1/evaluate/flags{path}", json=BODY)
        assert (answer.status_code, "was changed" in answer.json()["detail"]) == (503, True)
    assert client.get("/healthz").status_code == 200
    assert poll(client, *on_canary, clock) == V2, "its lease runs on"
    for _ in range(25):
        clock.advance(timedelta(hours=1))
        falls_back_to = poll(client, *on_canary, clock)
    assert falls_back_to == V1
    put(store, lines)
    assert ask(client).status_code == 503, "asked again after a minute only"
    clock.advance(timedelta(minutes=1))
    assert poll(client, *on_canary, clock) == V2


def test_one_that_runs_sends_no_device_to_what_was_forged(released: Released) -> None:
    """What it knows is from before; when the ledger grows it reads it again, and answers 503 in words."""
    store, digests = released
    client = TestClient(create_app(store), raise_server_exceptions=False)
    assert ask(client).json()["value"]["model_version"] == V1
    forge(store)
    assert ask(client).json()["value"]["model_version"] == V1
    move(Store.open(store.settings, store.clock), V2, digests[V2], ReleaseState.CANDIDATE)
    answer = ask(client)
    assert answer.status_code == 503
    assert "was changed" in answer.json()["detail"]
