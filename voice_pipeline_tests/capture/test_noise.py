"""Noises are taken in whole or not at all, once each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from voice_pipeline.capture.errors import NoiseImportError
from voice_pipeline.capture.noise import import_noise
from voice_pipeline.speech.audio import decode, encode_flac
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import noises


def _noise(folder: Path, name: str, seed: int) -> str:
    samples = (0.1 * np.random.default_rng(seed).standard_normal(8_000)).astype(np.float32)
    (folder / name).write_bytes(encode_flac(samples))
    return json.dumps({"path": name, "kind": "noise", "category": "cafe", "licence": "CC0"})


def test_noises_come_in_once_and_sound_the_same(store: Store, tmp_path: Path) -> None:
    manifest = tmp_path / "noise.jsonl"
    manifest.write_text("\n".join([_noise(tmp_path, "a.flac", 1), "", _noise(tmp_path, "b.flac", 2)]))
    assert import_noise(store, manifest) == 2
    assert import_noise(store, manifest) == 0
    rows = store.database.rows(select(noises))
    heard = [decode(store.blobs.get(row["blob_key"], row["sha256"])) for row in rows]
    original = [decode((tmp_path / name).read_bytes()) for name in ("a.flac", "b.flac")]
    assert sorted(float(s.sum()) for s in heard) == sorted(float(s.sum()) for s in original)
    assert {row["duration_s"] for row in rows} == {0.5}


@pytest.mark.parametrize(
    ("line", "told"), [('{"kind": "noise"}', "line 2"), ("not json", "line 2"), ('{"path": "gone.flac"}', "line 2")]
)
def test_a_bad_line_is_named_and_nothing_comes_in(store: Store, tmp_path: Path, line: str, told: str) -> None:
    manifest = tmp_path / "noise.jsonl"
    manifest.write_text(_noise(tmp_path, "a.flac", 1) + "\n" + line)
    with pytest.raises(NoiseImportError, match=told):
        import_noise(store, manifest)
    assert store.database.rows(select(noises)) == []


def test_a_missing_manifest_is_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NoiseImportError, match=r"nowhere\.jsonl"):
        import_noise(store, tmp_path / "nowhere.jsonl")
