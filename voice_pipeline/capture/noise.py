"""Noise and room responses for augmentation and noisy evaluation, taken into the home so that no run depends on a
folder outside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from voice_pipeline.capture.errors import NoiseImportError
from voice_pipeline.schema.canonical import sha256_bytes
from voice_pipeline.speech import audio
from voice_pipeline.speech.errors import AudioError
from voice_pipeline.store.database import insert_new
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import noises


def import_noise(store: Store, manifest: Path) -> int:
    """Take in every recording of a noise manifest (JSON Lines: path, kind, category, licence); returns how many are
    new.

    Raises:
        NoiseImportError: names the line or file that cannot be used; then nothing was taken in.
    """
    try:
        lines = manifest.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NoiseImportError(f"noise manifest {manifest} cannot be read: {error}") from error
    rows = [_row(store, manifest, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    with store.database.write() as connection:
        return insert_new(connection, noises, rows)


def _row(store: Store, manifest: Path, number: int, line: str) -> dict[str, Any]:
    where = f"noise manifest {manifest} line {number}"
    try:
        fields = json.loads(line)
        samples = audio.load(manifest.parent / fields["path"])
    except (json.JSONDecodeError, KeyError, TypeError, OSError) as error:
        raise NoiseImportError(f"{where} does not name a recording: {error}") from error
    except AudioError as error:
        raise NoiseImportError(f"{where}: {error}") from error
    data = audio.encode_flac(samples)
    noise_id = sha256_bytes(audio.pcm16(samples))[:16]
    key = f"noises/{noise_id}.flac"
    return {
        "noise_id": noise_id,
        "kind": str(fields.get("kind") or "noise"),
        "category": str(fields.get("category") or ""),
        "licence": str(fields.get("licence") or ""),
        "blob_key": key,
        "sha256": store.blobs.put(key, data),
        "duration_s": samples.size / audio.SAMPLE_RATE,
    }
