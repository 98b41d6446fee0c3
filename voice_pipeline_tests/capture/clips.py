"""Captures for tests: a receipt, an event and a short recording, and what became of them."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import numpy as np
from sqlalchemy import Table, func, select

from voice_pipeline.schema.clip import CaptureEvent, DeviceClass, DeviceContext, FailureMode, Microphone
from voice_pipeline.schema.consent import ConsentReceipt, Scope
from voice_pipeline.schema.ids import uuid7
from voice_pipeline.speech.audio import encode_wav
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import quarantine

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
DAY = "2026-11-01"
CONTEXT = DeviceContext(
    device_class=DeviceClass.PHONE_MID, os="android-15", app_version="1.4.0", microphone=Microphone.HEADSET
)


def receipt(subject: str = "alice", scopes: frozenset[Scope] = frozenset(Scope), number: int = 1) -> ConsentReceipt:
    """The grant number `number` of `subject`."""
    return ConsentReceipt(
        consent_id=f"consent-{subject}-{number}",
        subject_token=f"token-{subject}",
        scopes=scopes,
        granted_at=NOON - timedelta(days=1),
        notice_version="n1",
    )


def capture(number: int, consent: ConsentReceipt | None = None, at: datetime = NOON) -> CaptureEvent:
    """Event `number`; the same number is the same event."""
    return CaptureEvent(
        event_id=f"event-{number:06d}",
        clip_id=uuid7(at, random.Random(number)),
        consent=consent or receipt(),
        captured_at=at,
        context=CONTEXT,
        failure_mode=FailureMode.LOW_CONFIDENCE,
        model_version="m-20261101-00000000",
        hypothesis="call home",
        confidence=0.4,
        latency_ms=80.0,
        accent="en-gb",
        gender="female",
    )


def tone(number: int = 0, seconds: float = 0.4) -> bytes:
    """A WAV file that differs for each number."""
    t = np.arange(int(seconds * 16_000)) / 16_000
    return encode_wav((0.3 * np.sin(2 * np.pi * (220 + 7 * number) * t)).astype(np.float32))


def count(store: Store, table: Table) -> int:
    """Rows of a catalogue table."""
    return int(store.database.scalar(select(func.count()).select_from(table)))


def reason_of(store: Store, event_id: str) -> str | None:
    """Why an event lies in quarantine; None if it does not."""
    return store.database.scalar(select(quarantine.c.reason).where(quarantine.c.event_id == event_id))
