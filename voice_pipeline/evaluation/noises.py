"""Noise for evaluation and augmentation: the imported recordings, or pink noise where none were imported.

Promise: which stretch of which noise a clip is mixed with depends on (seed, clip id, condition) and the bank alone,
so two models, or the float and int8 forms of one, always hear exactly the same sound.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import noises as table

SAMPLE_RATE = 16_000
PINK_SECONDS = 20.0
PINK_VARIANTS = 4

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Noise:
    """One noise recording: float32 mono in [-1, 1] at 16 kHz. `noise_id` is `pink-N` where it was synthesised."""

    noise_id: str
    samples: Samples


def noise_bank(store: Store, noise_ids: Sequence[str] | None = None) -> list[Noise]:
    """Noises of this home in id order, only `noise_ids` where given; pink noise stands in for none, so never empty."""
    from voice_pipeline.speech.audio import decode

    statement = select(table).where(table.c.kind == "noise").order_by(table.c.noise_id)
    if noise_ids is not None:
        statement = statement.where(table.c.noise_id.in_(list(noise_ids)))
    bank = [
        Noise(row["noise_id"], decode(store.blobs.get(row["blob_key"], row["sha256"])))
        for row in store.database.rows(statement)
    ]
    return bank or [Noise(f"pink-{number}", pink_noise(number)) for number in range(PINK_VARIANTS)]


def load_rooms(store: Store) -> list[Samples]:
    """Impulse responses of this home in id order, float32 mono at 16 kHz; may be empty."""
    from voice_pipeline.speech.audio import decode

    rows = store.database.rows(select(table).where(table.c.kind == "rir").order_by(table.c.noise_id))
    return [decode(store.blobs.get(row["blob_key"], row["sha256"])) for row in rows]


def load_noises(store: Store) -> list[Samples]:
    """The samples of `noise_bank(store)`: what training mixes in."""
    return [noise.samples for noise in noise_bank(store)]


def pink_noise(seed: int, seconds: float = PINK_SECONDS) -> Samples:
    """White noise shaped to a 1/f power spectrum, about that of rooms and streets; peak 0.5."""
    count = int(seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(count))
    frequency = np.fft.rfftfreq(count, 1 / SAMPLE_RATE)
    shaped = np.fft.irfft(spectrum / np.sqrt(np.maximum(frequency, 20.0)), count)
    return np.asarray(0.5 * shaped / np.abs(shaped).max(), dtype=np.float32)


def noise_stretch(bank: Sequence[Noise], length: int, seed: int, clip_id: str, condition: str) -> Samples:
    """The `length` samples that (seed, clip_id, condition) draw from `bank`; a short noise is repeated."""
    draw = hashlib.sha256(f"{seed}:{clip_id}:{condition}".encode()).digest()
    noise = bank[int.from_bytes(draw[:8], "big") % len(bank)].samples
    offset = int.from_bytes(draw[8:16], "big") % len(noise)
    positions = (offset + np.arange(length)) % len(noise)
    return noise[positions]
