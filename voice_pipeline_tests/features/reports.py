"""Telemetry of one laptop profile, straight into the catalogue."""

from __future__ import annotations

import random
from datetime import datetime

from voice_pipeline.schema.clip import DeviceClass, DeviceContext, Microphone
from voice_pipeline.schema.telemetry import TelemetryEvent
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import telemetry

PROFILE = "laptop|headset|en-US"


def report(
    store: Store,
    at: datetime,
    words: int,
    corrected: int = 0,
    fallback: bool = False,
    snr_db: float = 20,
    received: datetime | None = None,
) -> None:
    """One dictation at `at`; `received` at once unless it says otherwise."""
    event = TelemetryEvent(
        event_id=f"event-{random.getrandbits(64):016x}",
        device_id="device",
        at=at,
        context=DeviceContext(device_class=DeviceClass.LAPTOP, os="x", app_version="1", microphone=Microphone.HEADSET),
        model_version="m",
        words=words,
        corrected_words=corrected,
        confidence=0.9,
        latency_ms=50,
        fallback=fallback,
        duration_s=2,
        snr_db=snr_db,
        loudness_dbfs=-20,
        clipping=0,
        speaking_rate=10,
        spectral_tilt=-3,
        band_low=0.5,
        band_mid=0.3,
        band_high=0.2,
    )
    row = {"event_id": event.event_id, "day": at.date().isoformat(), "at": at.isoformat(), "device_id": "device"}
    row["received_at"] = (received or at).isoformat()
    with store.database.write() as connection:
        connection.execute(telemetry.insert(), {**row, "model_version": "m", "event": event.model_dump(mode="json")})
