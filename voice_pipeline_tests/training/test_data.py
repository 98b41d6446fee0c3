"""Any clip, in any order, from any thread, gives what reading from the front gives; memory does not grow with audio."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from voice_pipeline.dataset.snapshot import snapshot
from voice_pipeline.schema.dataset import Split
from voice_pipeline.settings import load_settings
from voice_pipeline.speech.audio import decode, quantise
from voice_pipeline.store.clock import ManualClock
from voice_pipeline.store.errors import BlobDigestError, DamagedManifestError, DamagedShardError
from voice_pipeline.store.manifest import manifest_bytes, manifest_rows, read_audio
from voice_pipeline.store.shards import shard_spans
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import consents, dataset_versions
from voice_pipeline.training import data
from voice_pipeline.training.data import Utterances, open_utterances
from voice_pipeline.training.errors import ErasedClipError
from voice_pipeline_tests.store.labelled_home import add_batch
from voice_pipeline_tests.training.speech_made_of_tones import language

Heard = list[tuple[str, str, str, bytes]]


def version_of(store: Store) -> str:
    return str(store.database.scalar(select(dataset_versions.c.dataset_version)))


def train_of(store: Store) -> Utterances:
    return open_utterances(store, version_of(store), Split.TRAIN)


def from_the_front(store: Store) -> Heard:
    """What the reader of whole shards gives, which knows nothing of offsets."""
    rows = [row for row in manifest_rows(store, version_of(store)) if row.split == Split.TRAIN]
    return [
        (row.clip_id, row.speaker, row.text, quantise(decode(audio)).tobytes())
        for row, audio in read_audio(store, rows)
    ]


def heard(utterances: Utterances, indices: list[int]) -> Heard:
    return [(u.clip_id, u.speaker, u.text, u.samples.tobytes()) for u in (utterances[i] for i in indices)]


@pytest.fixture
def many(store: Store) -> Store:
    """Two batches, 16 speakers, clips of unequal length."""
    people = [f"p{n}" for n in range(16)]
    add_batch(store, "batch-20261102-001", people, clips_each=2, text="call me", seconds=0.3)
    add_batch(store, "batch-20261102-002", people, clips_each=2, text="go home", seconds=0.5)
    snapshot(store)
    return store


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(drawn=st.data())
def test_any_order_gives_the_bytes_of_reading_from_the_front(many: Store, drawn: st.DataObject) -> None:
    utterances, expected = train_of(many), from_the_front(many)
    assert heard(utterances, list(range(len(utterances)))) == expected
    indices = drawn.draw(st.lists(st.integers(-len(expected), len(expected) - 1), max_size=12))
    assert heard(utterances, indices) == [expected[i] for i in indices]
    start, stop, step = drawn.draw(st.tuples(st.integers(-9, 9), st.integers(-9, 99), st.sampled_from((-3, -1, 1, 2))))
    part = utterances[start:stop:step]
    assert part.clip_ids == [clip for clip, *_ in expected[start:stop:step]]
    assert heard(part.select(reversed(range(len(part)))), list(range(len(part)))) == expected[start:stop:step][::-1]


def test_threads_that_read_at_once_hear_what_one_hears(many: Store) -> None:
    utterances, expected = train_of(many), from_the_front(many)
    order = np.random.default_rng(0).integers(len(expected), size=400).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: heard(utterances, [i])[0], order)) == [expected[i] for i in order]


def test_columns_are_those_of_the_clips_and_cost_no_audio(many: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    utterances = train_of(many)
    clips = list(utterances)
    monkeypatch.setattr(data, "_hear", None)  # reading any clip from here on would fail
    assert utterances.clip_ids == [clip.clip_id for clip in clips]
    assert utterances.speakers == [clip.speaker for clip in clips]
    assert utterances.texts == [clip.text for clip in clips]
    assert utterances.sample_counts == [clip.samples.size for clip in clips] == [clip.sample_count for clip in clips]
    assert len(utterances.select(range(3))) == len(utterances[3:6]) == 3
    with pytest.raises(IndexError):
        utterances[len(clips)]


def test_a_list_in_memory_has_the_same_face() -> None:
    clips = language(4)
    wrapped = Utterances.of(clips)
    assert list(wrapped) == clips
    assert Utterances.of(wrapped) is wrapped
    assert wrapped.sample_counts == [clip.samples.size for clip in clips]
    assert wrapped.select([2, 0]).texts == [clips[2].text, clips[0].text]
    assert wrapped[1] is clips[1]


def test_the_erased_are_not_there_and_one_erased_later_is_named(many: Store) -> None:
    before = train_of(many)
    gone = before.speakers[0]
    many.vault.destroy(gone)
    with pytest.raises(ErasedClipError, match=f"clip {before.clip_ids[0]} of {version_of(many)} was erased"):
        before[0]
    after = train_of(many)
    assert gone not in after.speakers
    assert after.clip_ids == [c for c, s in zip(before.clip_ids, before.speakers, strict=True) if s != gone]
    assert heard(after, list(range(len(after)))) == from_the_front(many)


def test_a_key_that_another_process_destroys_closes_the_clip_at_once(many: Store) -> None:
    utterances = train_of(many)
    utterances[0]  # its key is in this vault's cache
    other = Store.open(many.settings, many.clock)
    other.vault.destroy(utterances.speakers[0])
    with pytest.raises(ErasedClipError):
        utterances[0]


def test_clips_of_a_revoked_consent_are_not_there(many: Store) -> None:
    gone = train_of(many).speakers[0]
    with many.database.write() as connection:
        connection.execute(update(consents).where(consents.c.subject_token == gone).values(revoked_at="2026-11-02"))
    assert gone not in train_of(many).speakers


def shards(store: Store) -> list[Path]:
    return sorted((store.settings.dataset_repo / "data" / "shards").glob("*.tar"))


def test_a_shard_that_is_missing_cut_or_not_ours_is_named(many: Store) -> None:
    utterances, path = train_of(many), shards(many)[0]
    whole = path.read_bytes()
    path.chmod(0o644)  # DVC keeps its files read-only
    path.write_bytes(whole[: len(whole) // 3 + 7])
    with pytest.raises(DamagedShardError, match=path.name):
        train_of(many)
    with pytest.raises((DamagedShardError, BlobDigestError), match=r"clip|audio of"):
        list(utterances)
    path.unlink()
    with pytest.raises(DamagedShardError, match=path.name):
        utterances[0]
    path.write_bytes(b"no tar" * 1000)
    with pytest.raises(DamagedShardError, match=path.name):
        train_of(many)


def test_a_byte_that_changed_in_the_shard_is_noticed(many: Store) -> None:
    utterances, path = train_of(many), shards(many)[0]
    content = bytearray(path.read_bytes())
    content[shard_spans(path)[utterances.clip_ids[0]].offset + 100] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(content))
    with pytest.raises(BlobDigestError, match=utterances.clip_ids[0]):
        utterances[0]
    assert utterances[1].samples.size


def test_audio_of_another_length_than_the_manifest_tells_is_refused(many: Store) -> None:
    rows = [row.model_copy(update={"duration_s": 0.4}) for row in manifest_rows(many, version_of(many))]
    (many.settings.dataset_repo / "data" / "manifest.parquet").unlink()
    written = manifest_bytes(many, rows)
    (many.settings.dataset_repo / "data" / "manifest.parquet").write_bytes(written)
    with many.database.write() as connection:
        connection.execute(update(dataset_versions).values(manifest_sha256=hashlib.sha256(written).hexdigest()))
    with pytest.raises(DamagedManifestError, match=r"has 4800 samples, .* tells 6400"):
        train_of(many)[0]


def peak(store: Store, how: str) -> tuple[int, int]:
    """(bytes, clips) of reading the whole train split in a process of its own."""
    command = [sys.executable, "-m", "voice_pipeline_tests.training.peak_memory", how]
    environment = {**os.environ, "VOICE_PIPELINE_HOME": str(store.settings.root), "OMP_NUM_THREADS": "1"}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    return int(told[0]), int(told[1])


def test_ten_times_the_audio_takes_the_same_memory(tmp_path: Path, clock: ManualClock, store: Store) -> None:
    """Twelve clips and 120, of 5 s: 15 MB more audio. A reader that held it would show; that is tried as well."""
    peaks = {}
    for clips_each in (1, 10):
        home = Store.open(load_settings(tmp_path / f"home-{clips_each}"), clock)
        add_batch(home, "batch-20261102-001", [f"p{n}" for n in range(12)], clips_each, seconds=5.0)
        snapshot(home)
        peaks[clips_each] = peak(home, "open"), peak(home, "hold")
    (small, few), _ = peaks[1]
    (large, lots), (held, _) = peaks[10]
    assert lots == 10 * few
    audio = (lots - few) * 5 * 16_000 * 2
    assert large - small < audio / 20
    assert held - small > audio * 0.9  # the measurement can tell
