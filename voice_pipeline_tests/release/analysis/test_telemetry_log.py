"""What was read bit by bit is what one reading would find; nothing that cannot be read hides the rest."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, update

from voice_pipeline.release.analysis.telemetry_log import dictations
from voice_pipeline.settings import load_settings
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import telemetry

START = datetime(2026, 11, 2, 9, tzinfo=UTC)
AFTER = START - timedelta(hours=1)


def row(number: int, minute: int, received: int | None) -> dict:
    at = (START + timedelta(minutes=minute)).isoformat()
    event = {
        "at": at,
        "device_id": f"device-{number}",
        "context": {"device_class": "laptop", "app_version": "1.5.0"},
        "model_version": "m",
        "words": 1,
        "corrected_words": 0,
        "latency_ms": 1.0,
        "duration_s": 1.0,
    }
    told = None if received is None else (START + timedelta(minutes=received)).isoformat()
    columns = {"event_id": f"e{number}", "day": at[:10], "at": at, "device_id": event["device_id"]}
    return {**columns, "model_version": "m", "release_id": None, "received_at": told, "event": event}


def put(store: Store, *rows: dict) -> None:
    with store.database.write() as connection:
        connection.execute(telemetry.insert(), list(rows))


def fresh(store: Store) -> Store:
    """The same home in a process that read nothing yet."""
    return Store.open(store.settings, store.clock)


minutes = st.integers(-90, 90)


@given(st.lists(st.lists(st.tuples(minutes, st.one_of(st.none(), minutes)), min_size=1, max_size=4), max_size=6))
@settings(max_examples=40, deadline=None)
def test_reading_bit_by_bit_finds_what_one_reading_finds(batches: list[list[tuple[int, int | None]]]) -> None:
    with TemporaryDirectory() as folder:
        store = Store.open(load_settings(Path(folder) / "home"), ManualClock(START))
        number = 0
        for batch in batches:
            for minute, received in batch:
                put(store, row(number, minute, received))
                number += 1
            assert sorted(d.device_id for d in dictations(store, AFTER)) == sorted(
                d.device_id for d in dictations(fresh(store), AFTER)
            )


def test_who_reports_late_comes_after_those_who_were_heard_before(store: Store) -> None:
    put(store, row(1, 10, 10), row(2, 20, 20))
    before = dictations(store, AFTER)
    put(store, row(3, 5, 30))
    assert dictations(store, AFTER)[: len(before)] == before
    assert [d.device_id for d in dictations(fresh(store), AFTER)] == ["device-1", "device-2", "device-3"]


def test_what_was_removed_is_forgotten(store: Store) -> None:
    put(store, row(1, 10, 10), row(2, 20, 20))
    assert len(dictations(store, AFTER)) == 2
    with store.database.write() as connection:
        connection.execute(delete(telemetry).where(telemetry.c.event_id == "e1"))
    assert [d.device_id for d in dictations(store, AFTER)] == ["device-2"]


def test_an_event_that_cannot_be_read_is_named_and_hides_no_other(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, row(1, 10, 10), row(2, 20, 20))
    with store.database.write() as connection:
        connection.execute(update(telemetry).where(telemetry.c.event_id == "e1").values(event={"at": "yesterday"}))
    with caplog.at_level(logging.WARNING):
        assert [d.device_id for d in dictations(store, AFTER)] == ["device-2"]
    assert "e1" in caplog.text
