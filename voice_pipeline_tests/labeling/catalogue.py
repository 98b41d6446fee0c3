"""Clips as capture leaves them in the catalogue, for tests of what comes after."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.ids import uuid7
from voice_pipeline.store.database import insert_new
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clip_features, clips, consents

ALL_SCOPES = ("transcribe_review", "train", "evaluate")
WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "start",
    "stop",
    "enter",
    "north",
    "street",
]

MEASURES = {
    "duration_s": 2.5,
    "loudness_dbfs": -25.0,
    "clipping": 0.0,
    "spectral_tilt": -3.0,
    "band_low": 0.5,
    "band_mid": 0.3,
    "band_high": 0.2,
}


def add_clips(
    store: Store,
    count: int,
    day: str,
    scopes: Sequence[str] = ALL_SCOPES,
    subject: str = "subject-1",
    seed: int = 0,
    snr_db: float | None = None,
    **values: Any,
) -> dict[str, str]:
    """Catalogue `count` clips of one subject; returns clip_id → reference text."""
    rng = random.Random(f"{day}|{subject}|{seed}")
    at = datetime.fromisoformat(f"{day}T10:00:00").replace(tzinfo=UTC)
    consent_id = f"consent-{subject}-{'-'.join(sorted(scopes))}"
    truth = {uuid7(at, rng): " ".join(rng.choices(WORDS, k=4)) for _ in range(count)}
    consent = {
        "consent_id": consent_id,
        "subject_token": subject,
        "scopes": list(scopes),
        "granted_at": at.isoformat(),
        "notice_version": "1",
        "jurisdiction": "",
    }
    base = {
        "subject_token": subject,
        "consent_id": consent_id,
        "capture_date": day,
        "captured_at": at.isoformat(),
        "received_at": at.isoformat(),
        "duration_s": 2.5,
        "device_class": "phone_mid",
        "os": "android-15",
        "app_version": "1.4.0",
        "microphone": "built_in",
        "locale": "en-US",
        "failure_mode": "none",
    }
    rows = [
        {"content_sha256": digest(clip_id), "blob_key": f"clips/{clip_id}", **base, "clip_id": clip_id, **values}
        for clip_id in truth
    ]
    measured = [
        {
            "clip_id": clip_id,
            "capture_date": day,
            "values": {**MEASURES, "snr_db": snr_db},
            "known_at": at.isoformat(),
        }
        for clip_id in truth
        if snr_db is not None
    ]
    with store.database.write() as connection:
        insert_new(connection, consents, [consent])
        insert_new(connection, clips, rows)
        insert_new(connection, clip_features, measured)
    return truth


def add_captures(store: Store, count: int, day: str, confidence: float = 0.5, **values: Any) -> dict[str, str]:
    """Clips that devices sent with a low-confidence hypothesis."""
    heard = {"hypothesis": "one two stop", "failure_mode": "low_confidence", "model_version": "m-20260101-00000000"}
    return add_clips(store, count, day, **{**heard, "confidence": confidence, **values})
