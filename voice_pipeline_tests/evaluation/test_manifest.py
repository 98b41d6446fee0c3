"""`evaluate` on a list of recordings: bad input gives one clear error that names the line; good input is scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from voice_pipeline.evaluation import errors
from voice_pipeline.evaluation.manifest import NoiseUnder, evaluate_manifest, read_noises, read_recordings
from voice_pipeline.store.store import Store


def recording(folder: Path, name: str, rate: int = 16_000, channels: int = 1, seconds: float = 0.5) -> Path:
    rng = np.random.default_rng(len(name))
    shape = (int(rate * seconds), channels) if channels > 1 else (int(rate * seconds),)
    soundfile.write(folder / name, rng.normal(0, 0.1, shape), rate)
    return folder / name


def manifest(folder: Path, *lines: dict[str, Any] | str) -> Path:
    path = folder / "list.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.MissingManifestError, match=r"nowhere\.jsonl does not exist"):
        read_recordings(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_an_empty_manifest_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(errors.EmptyManifestError, match="lists no recording"):
        read_recordings(manifest(tmp_path, content))


@pytest.mark.parametrize(
    "line", ["{not json", '["a list"]', '{"text": "no path"}', '{"path": "a.wav"}', '{"path": "a.wav", "text": 3}']
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    recording(tmp_path, "a.wav")
    path = manifest(tmp_path, {"path": "a.wav", "text": "good"}, "", line)
    with pytest.raises(errors.BadManifestLineError, match="line 3"):
        read_recordings(path)


def test_a_recording_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.MissingRecordingError, match=r"line 1 names gone\.wav"):
        read_recordings(manifest(tmp_path, {"path": "gone.wav", "text": "a"}))


def test_what_is_no_audio_is_refused_before_any_model_is_loaded(tmp_path: Path, store: Store) -> None:
    recording(tmp_path, "a.wav")
    (tmp_path / "b.wav").write_bytes(b"this is text")
    path = manifest(tmp_path, {"path": "a.wav", "text": "a"}, {"path": "b.wav", "text": "b"})
    with pytest.raises(errors.UnreadableRecordingError, match="line 2"):
        evaluate_manifest(store, "m-20260101-00000000", path)


def test_another_sample_rate_is_refused(tmp_path: Path) -> None:
    recording(tmp_path, "a.wav", rate=8000)
    with pytest.raises(errors.RecordingSampleRateError, match=r"line 1.*8000 Hz"):
        read_recordings(manifest(tmp_path, {"path": "a.wav", "text": "a"}))


def test_an_unknown_model_is_refused(tmp_path: Path, store: Store) -> None:
    recording(tmp_path, "a.wav")
    with pytest.raises(errors.UnknownArtifactError, match="no model version of this home and no bundle"):
        evaluate_manifest(store, "m-20260101-00000000", manifest(tmp_path, {"path": "a.wav", "text": "a"}))


def test_room_responses_are_no_noise(tmp_path: Path) -> None:
    recording(tmp_path, "rir.wav")
    with pytest.raises(errors.EmptyManifestError, match="lists no noise"):
        read_noises(manifest(tmp_path, {"path": "rir.wav", "kind": "rir"}))


def test_a_trained_checkpoint_is_scored_clean_and_in_noise(tmp_path: Path, store: Store, checkpoint: str) -> None:
    recording(tmp_path, "a.wav", seconds=1.0)
    recording(tmp_path, "bb.flac", seconds=3.0)
    recording(tmp_path, "noise.wav", seconds=0.7)
    noise = tmp_path / "noise.jsonl"
    noise.write_text(json.dumps({"path": "noise.wav", "kind": "noise"}))
    path = manifest(
        tmp_path,
        {"path": "a.wav", "text": "Call 2 people", "speaker": "s1", "accent": "en-gb"},
        {"path": str(tmp_path / "bb.flac"), "text": "yes", "speaker": "s2"},
    )
    report = evaluate_manifest(store, checkpoint, path, NoiseUnder(noise, 5.0))
    assert report.model_version == checkpoint
    by_snr = {part.slice: part.clips for part in report.slices if part.slice.startswith("snr:")}
    assert sum(by_snr.values()) == 4  # each clip as it was heard, in noise too
    assert {part.slice for part in report.slices} - set(by_snr) == {
        "condition:clean",
        "condition:noise_5db",
        "accent:en-gb",
        "length:short",
        "length:medium",
    }
    assert report.overall.clips == 4
    assert report.overall.words == 8  # 'Call 2 people' is normalised to three words, 'yes' to one; heard twice
    assert report.latency.p95_ms > 0
    again = evaluate_manifest(store, checkpoint, path, NoiseUnder(noise, 5.0))
    assert again.utterances == report.utterances
