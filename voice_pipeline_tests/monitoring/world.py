"""A home as monitoring meets it: a live model, its training clips with features, and a fleet's telemetry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import insert

from voice_pipeline.schema.canonical import digest
from voice_pipeline.schema.clip import DeviceClass, DeviceContext, Microphone
from voice_pipeline.schema.release import ReleaseState
from voice_pipeline.schema.telemetry import TelemetryEvent
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import clip_features, clips, dataset_clips, labels, models, telemetry
from voice_pipeline_tests.transitions import take

DATASET = "ds-000000000001"
MODEL = "m-20261101-aaaaaaaa"
CLASSES = tuple(DeviceClass)

Features = dict[str, float]
MEASURED = ("duration_s", "snr_db", "loudness_dbfs", "clipping", "spectral_tilt", "band_low", "band_mid", "band_high")


def speech(rng: np.random.Generator, n: int, shift: float = 0.0) -> list[Features]:
    """`n` clips' features; `shift` moves duration and SNR by that many standard deviations."""
    rows = []
    for _ in range(n):
        low = float(rng.uniform(0.4, 0.6))
        rows.append(
            {
                "duration_s": float(max(0.2, rng.normal(3 + shift, 1))),
                "snr_db": float(rng.normal(35 - 5 * shift, 5)),
                "loudness_dbfs": float(rng.normal(-30, 3)),
                "clipping": 0.0,
                "spectral_tilt": float(rng.normal(-5, 1)),
                "band_low": low,
                "band_mid": 0.9 - low,
                "band_high": 0.1,
                "speaking_rate": float(rng.normal(10, 2)),
            }
        )
    return rows


def train_on(store: Store, rows: Sequence[Features], dataset_version: str = DATASET) -> None:
    """A dataset version whose train split has these clips."""
    at = store.now().isoformat()
    found: dict[str, list[dict[str, Any]]] = {"clips": [], "split": [], "features": [], "labels": []}
    filler = dict.fromkeys(("content_sha256", "os", "app_version", "failure_mode", "blob_key"), "x")
    for number, row in enumerate(rows):
        clip = {"clip_id": f"{dataset_version}-{number:06d}"}
        subject = {"subject_token": f"speaker-{number % 40}", "consent_id": "c"}
        text = "a" * max(1, round(row["speaking_rate"] * row["duration_s"]))
        context = {"device_class": CLASSES[number % 4].value, "microphone": "headset", "locale": "en-US"}
        times = {"capture_date": "2026-11-01", "captured_at": at, "received_at": at}
        found["clips"].append({**filler, **subject, **clip, **context, **times, "duration_s": row["duration_s"]})
        found["split"].append(
            {**clip, **subject, "dataset_version": dataset_version, "split": "train", "batch_id": "b"}
        )
        measures = {name: row[name] for name in MEASURED}
        found["features"].append({**clip, "capture_date": "2026-11-01", "values": measures, "known_at": at})
        label = {"text": text, "raw_text": text, "normaliser_version": "1", "method": "single", "reviewers": []}
        found["labels"].append({**clip, **label, "approved_at": at})
    with store.database.write() as connection:
        connection.execute(insert(clips), found["clips"])
        connection.execute(insert(dataset_clips), found["split"])
        connection.execute(insert(clip_features), found["features"])
        connection.execute(insert(labels), found["labels"])


def go_live(store: Store, model_version: str = MODEL, dataset_version: str = DATASET) -> None:
    """Put a new model into production; the one that was there is superseded."""
    enter(store, model_version, dataset_version)
    promote(store, model_version)


def enter(store: Store, model_version: str, dataset_version: str = DATASET) -> None:
    """A new model and its release, which is not live yet."""
    with store.database.write() as connection:
        connection.execute(
            insert(models).values(
                model_version=model_version,
                spec_digest=digest(model_version),
                spec={},
                dataset_version=dataset_version,
                state="trained",
                cause={},
                planned_at=store.now().isoformat(),
            )
        )
    _move(store, model_version, ReleaseState.CANDIDATE)


def promote(store: Store, model_version: str) -> None:
    """Put a model that has a release into production; the one that was there is superseded."""
    from voice_pipeline.store.releases import latest_release, live

    before, release = live(store), latest_release(store, model_version)
    assert release is not None
    if before is not None:
        _move(store, before.model_version, ReleaseState.SUPERSEDED)
    _move(store, model_version, ReleaseState.PRODUCTION)


def _move(store: Store, model_version: str, to: ReleaseState) -> None:
    take(store, f"{model_version}-r1", model_version, digest(model_version), to)


def report(
    store: Store,
    rows: Sequence[Features],
    at: datetime | None = None,
    model_version: str = MODEL,
    devices: int = 60,
    corrected: Callable[[Features], float] = lambda row: 0.1,
    seed: int = 0,
    **changes: Any,
) -> str:
    """Post telemetry: one event a row, spread over `devices`, ten words each; returns the day."""
    at = at or store.now()
    rng = np.random.default_rng(seed)
    day = at.date().isoformat()
    events = []
    for number, row in enumerate(rows):
        event = TelemetryEvent(
            **{
                "event_id": f"{model_version}-{at.isoformat()}-{seed}-{number}",
                "device_id": f"device-{number % devices:03d}",
                "at": at + timedelta(milliseconds=number),
                "context": _context(number % devices),
                "model_version": model_version,
                "words": 10,
                "corrected_words": int(rng.binomial(10, corrected(row))),
                "confidence": 0.8,
                "latency_ms": 50.0,
                **row,
                **changes,
            }
        )
        events.append(
            {
                "event_id": event.event_id,
                "day": day,
                "at": event.at.isoformat(),
                "device_id": event.device_id,
                "model_version": model_version,
                "release_id": event.release_id,
                "event": event.model_dump(mode="json"),
            }
        )
    with store.database.write() as connection:
        connection.execute(insert(telemetry), events)
    return day


def _context(number: int) -> DeviceContext:
    return DeviceContext(device_class=CLASSES[number % 4], os="os", app_version="1.4.0", microphone=Microphone.HEADSET)
