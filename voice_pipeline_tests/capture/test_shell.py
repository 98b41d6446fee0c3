"""The Dagster shell of capture: what fires when, and what the assets say."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from dagster import DagsterInstance, RunRequest, SensorDefinition, SkipReason, build_sensor_context, materialize

from voice_pipeline.capture import days
from voice_pipeline.capture.assets import captured_clips, clip_catalog, quarantined_clips
from voice_pipeline.capture.checks import clips_are_consented, quarantine_is_small
from voice_pipeline.capture.erasure import SCRUB_DUE, erase_subject
from voice_pipeline.capture.ingest import ingest_day
from voice_pipeline.capture.intake import accept, accept_many
from voice_pipeline.capture.sensors import erasure_sensor, new_captures_sensor
from voice_pipeline.partitions import capture_date
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import consents, meta
from voice_pipeline_tests.capture.clips import DAY, NOON, capture, tone


def _tick(sensor: SensorDefinition, store: Store) -> list[RunRequest]:
    """What the sensor asks for, before Dagster looks the jobs up."""
    context = build_sensor_context(instance=DagsterInstance.ephemeral(), resources={"store": store})
    answer = sensor(context)
    requests = [answer] if isinstance(answer, RunRequest | SkipReason) else list(answer)
    return [request for request in requests if isinstance(request, RunRequest)]


def test_new_captures_fire_one_run_a_day_and_the_same_cause_the_same_key(store: Store) -> None:
    assert _tick(new_captures_sensor, store) == []
    accept_many(store, [(capture(1), tone(1)), (capture(2), tone(2))])
    accept(store, capture(3, at=NOON - timedelta(days=1)), tone(3))
    first = _tick(new_captures_sensor, store)
    assert [run.partition_key for run in first] == ["2026-10-31", DAY]
    assert [run.run_key for run in first] == [run.run_key for run in _tick(new_captures_sensor, store)]
    accept(store, capture(4), tone(4))
    second = _tick(new_captures_sensor, store)
    assert second[0].run_key == first[0].run_key
    assert second[1].run_key != first[1].run_key


def test_a_day_that_was_ingested_fires_nothing(store: Store) -> None:
    accept(store, capture(1), tone(1))
    ingest_day(store, DAY)
    assert _tick(new_captures_sensor, store) == []


def test_each_erasure_fires_the_forgetting_once(store: Store) -> None:
    assert _tick(erasure_sensor, store) == []
    accept(store, capture(1), tone(1))
    erase_subject(store, "token-alice", actor="alice")
    (first,) = _tick(erasure_sensor, store)
    assert [run.run_key for run in _tick(erasure_sensor, store)] == [first.run_key]
    erase_subject(store, "token-bob", actor="bob")
    second = _tick(erasure_sensor, store)[0].run_key
    assert second != first.run_key
    with store.database.write() as connection:
        connection.execute(meta.insert(), {"key": SCRUB_DUE, "value": "attempt 2"})
    assert _tick(erasure_sensor, store)[0].run_key not in {first.run_key, second}, "the logs wait to be scrubbed"


def test_the_assets_take_a_day_in_and_count_it(store: Store) -> None:
    accept_many(store, [(capture(1), tone(1)), (capture(2), b"noise")])
    result = materialize(
        [captured_clips, quarantined_clips, clip_catalog, clips_are_consented, quarantine_is_small],
        partition_key=DAY,
        instance=DagsterInstance.ephemeral(),
        resources={"store": store},
    )
    figures = {
        name: result.asset_materializations_for_node(name)[0].metadata
        for name in ("captured_clips", "quarantined_clips", "clip_catalog")
    }
    assert (figures["captured_clips"]["catalogued"].value, figures["captured_clips"]["quarantined"].value) == (1, 1)
    assert figures["quarantined_clips"]["reasons"].value == {"unreadable_audio": 1}
    assert figures["clip_catalog"]["clips"].value == 1
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks == {"clips_are_consented": True, "quarantine_is_small": False}


def test_a_clip_whose_consent_was_revoked_blocks_the_catalogue(store: Store) -> None:
    accept(store, capture(1), tone(1))
    ingest_day(store, DAY)
    assert clips_are_consented(store).passed
    with store.database.write() as connection:
        connection.execute(consents.update().values(revoked_at=store.now().isoformat()))
    assert not clips_are_consented(store).passed


def test_days_begin_where_the_partitions_do() -> None:
    start = capture_date.start
    assert isinstance(start, datetime)
    assert start.date() == days.FIRST_DAY


@pytest.mark.parametrize("minutes", [-11, 0, 11, 60 * 24 * 91])
def test_a_capture_day_is_never_ahead_of_its_receipt(minutes: int) -> None:
    received = NOON.replace(hour=0, minute=5)
    day = days.partition_day(received - timedelta(minutes=minutes), received)
    assert day <= received.date().isoformat()


def test_an_idle_sensor_says_why(store: Store) -> None:
    context = build_sensor_context(instance=DagsterInstance.ephemeral(), resources={"store": store})
    skipped = new_captures_sensor.evaluate_tick(context)
    assert skipped.skip_message == SkipReason("no new captures").skip_message
