"""Fills a store with clips, consents, labels and a closed batch, without any other stage: what a dataset is made of."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.schema.ids import uuid7
from voice_pipeline.speech.audio import encode_flac, pcm16
from voice_pipeline.speech.normalise import NORMALISER_VERSION
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import batches, clips, consents, labels

ALL_SCOPES = ("evaluate", "train", "transcribe_review")
TEST_SCOPES = ("evaluate", "transcribe_review")
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class LabelledClip:
    clip_id: str
    speaker: str
    text: str
    flac: bytes


def add_batch(
    store: Store,
    batch: str,
    speakers: Sequence[str],
    clips_each: int = 2,
    scopes: Sequence[str] = ALL_SCOPES,
    text: str = "call me",
    seed: int = 0,
    seconds: float = 0.3,
    **fields: Any,
) -> list[LabelledClip]:
    """Close one batch of `clips_each` clips for each speaker; `fields` override columns of the clip rows."""
    rng = random.Random(f"{batch}{seed}")
    noise = np.random.default_rng([seed, zlib.crc32(batch.encode())])
    made = []
    for speaker in speakers:
        for _ in range(clips_each):
            samples = noise.normal(0, 0.05, int(16_000 * seconds)).astype(np.float32)
            made.append((samples, LabelledClip(uuid7(store.now(), rng), speaker, text, encode_flac(samples))))
    now = store.now().isoformat()
    store.vault.ensure_subjects(list(speakers))
    for _, clip in made:
        store.blobs.put(f"clips/{clip.clip_id}", store.vault.encrypt(clip.speaker, clip.flac, clip.clip_id))
    with store.database.write() as connection:
        for speaker in speakers:
            consent = {"consent_id": f"{batch}-{speaker}", "subject_token": speaker, "scopes": list(scopes)}
            connection.execute(consents.insert(), {**consent, "granted_at": now, "notice_version": "1"})
        for samples, clip in made:
            row = {**_clip_row(clip, batch, now, seconds), "content_sha256": sha256_bytes(pcm16(samples)), **fields}
            connection.execute(clips.insert(), row)
            label = {"clip_id": clip.clip_id, "text": clip.text, "raw_text": clip.text}
            label |= {"normaliser_version": NORMALISER_VERSION, "method": "single", "reviewers": ["r1"]}
            label |= {"approved_at": now, "batch_id": batch}
            connection.execute(labels.insert(), label)
        closed = {"batch_id": batch, "closed_at": now, "digest": batch, "clips": len(made), "cause": "reviews"}
        connection.execute(batches.insert(), closed)
    return [clip for _, clip in made]


def _clip_row(clip: LabelledClip, batch: str, now: str, seconds: float) -> dict[str, Any]:
    return {
        "clip_id": clip.clip_id,
        "subject_token": clip.speaker,
        "consent_id": f"{batch}-{clip.speaker}",
        "capture_date": now[:10],
        "captured_at": now,
        "received_at": now,
        "duration_s": seconds,
        "device_class": "phone_low",
        "os": "android-14",
        "app_version": "1.0.0",
        "microphone": "built_in",
        "locale": "en-US",
        "accent": "en-gb",
        "gender": "female",
        "age": "",
        "source": "test",
        "failure_mode": "none",
        "blob_key": f"clips/{clip.clip_id}",
    }
