"""Triage sees what the feature store serves online, and what is measured but not published yet."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import insert

from voice_pipeline.features.publish import publish
from voice_pipeline.labeling.signals import read_signals
from voice_pipeline.schema.clip import DeviceClass, DeviceContext, Microphone
from voice_pipeline.schema.telemetry import TelemetryEvent
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import telemetry
from voice_pipeline_tests.labeling.catalogue import MEASURES, add_captures, add_clips

DAY = "2026-11-02"


def report(store: Store, number: int, corrected_words: int) -> None:
    context = DeviceContext(
        device_class=DeviceClass.PHONE_MID, os="android-15", app_version="1.4.0", microphone=Microphone.BUILT_IN
    )
    event = TelemetryEvent.model_validate(
        {
            "event_id": f"event-{number:04d}",
            "device_id": "device-1",
            "at": store.now(),
            "context": context,
            "model_version": "m-1",
            "words": 10,
            "corrected_words": corrected_words,
            "confidence": 0.8,
            "latency_ms": 100,
            **MEASURES,
            "snr_db": 12.0,
            "speaking_rate": 10.0,
        }
    )
    row = {
        "event_id": event.event_id,
        "day": DAY,
        "at": event.at.isoformat(),
        "device_id": event.device_id,
        "model_version": event.model_version,
        "event": event.model_dump(mode="json"),
    }
    with store.database.write() as connection:
        connection.execute(insert(telemetry).values(**row))


def test_clips_nobody_measured_are_simply_unknown(store: Store) -> None:
    truth = add_clips(store, 2, DAY)
    found = read_signals(store, DAY)
    assert set(found) == set(truth)
    assert {signals.snr_db for signals in found.values()} == {None}


def test_measured_clips_are_known_before_they_are_published(store: Store) -> None:
    truth = add_clips(store, 2, DAY, snr_db=7.0)
    assert [read_signals(store, DAY)[clip_id].snr_db for clip_id in truth] == [7.0, 7.0]


def test_the_device_profiles_correction_rate_comes_from_the_feature_store(store: Store, clock: ManualClock) -> None:
    clip_id = next(iter(add_captures(store, 1, DAY, snr_db=7.0)))
    for number, corrected in enumerate((4, 6, 5)):
        report(store, number, corrected)
    clock.advance(timedelta(days=1))  # profile statistics are known when their day is over
    publish(store)
    signals = read_signals(store, DAY)[clip_id]
    assert signals.snr_db == 7.0
    assert signals.correction_rate is not None
    assert abs(signals.correction_rate - 0.5) < 0.05
