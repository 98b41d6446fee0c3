"""A corpus is checked whole before a clip is handed out; a synthetic one is the same for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voice_pipeline.fleet.corpus import load_corpus, synthesise_corpus
from voice_pipeline.fleet.errors import CorpusError
from voice_pipeline.schema.clip import UNKNOWN_DEVICE


def _write(folder: Path, name: str = "a.flac", rate: int = 16_000, channels: int = 1) -> None:
    soundfile.write(folder / name, np.zeros((8_000, channels), np.int16), rate)


def _line(**changes: object) -> str:
    return json.dumps({"path": "a.flac", "text": "yes", "speaker": "s1", "split": "train", "corpus": "own", **changes})


def _load_error(folder: Path, *lines: str) -> str:
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    with pytest.raises(CorpusError) as error:
        load_corpus(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_listed_recording_is_read_with_what_is_known_of_it(tmp_path: Path) -> None:
    _write(tmp_path)
    (tmp_path / "manifest.jsonl").write_text(_line(gender="female", accent="Scots") + "\n\n")
    (clip,) = load_corpus(tmp_path)
    assert (clip.text, clip.speaker, clip.gender, clip.accent, clip.split) == ("yes", "s1", "female", "Scots", "train")
    assert clip.samples().size == 8_000


def test_what_a_line_says_of_its_device_is_taken_and_the_rest_stays_unknown(tmp_path: Path) -> None:
    _write(tmp_path)
    (tmp_path / "manifest.jsonl").write_text(
        _line() + "\n" + _line(device_class="laptop", os="macos-15", locale="en-GB")
    )
    silent, told = (clip.context for clip in load_corpus(tmp_path))
    assert silent == UNKNOWN_DEVICE
    assert silent.profile == "unknown|unknown|und"
    assert (told.profile, told.os, told.app_version) == ("laptop|unknown|en-GB", "macos-15", "unknown")


@pytest.mark.parametrize(("field", "value"), [("device_class", "fridge"), ("microphone", 3), ("os", "x" * 41)])
def test_a_line_that_describes_no_device_is_named(tmp_path: Path, field: str, value: object) -> None:
    _write(tmp_path)
    message = _load_error(tmp_path, _line(), _line(**{field: value}))
    assert "line 2" in message
    assert field in message


def test_a_recording_cut_short_is_named_when_it_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(8_000, np.int16), 16_000)
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:9_000])
    (tmp_path / "manifest.jsonl").write_text(_line(path="a.wav"))
    (clip,) = load_corpus(tmp_path)
    with pytest.raises(CorpusError, match=r"line 1: .*a\.wav: .* names 16000 bytes of sound, 8956 are there"):
        clip.samples()


def test_a_corpus_without_folder_manifest_or_clips_is_told(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="nowhere"):
        load_corpus(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"manifest\.jsonl"):
        load_corpus(tmp_path)
    assert "lists no" in _load_error(tmp_path, "", "  ")


@pytest.mark.parametrize(
    "bad", ["not json", "[1]", "7", "null", '{"path": "a.flac"}', _line(text=None), _line(speaker=3), _line(path="")]
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, bad: str) -> None:
    _write(tmp_path)
    assert "line 3" in _load_error(tmp_path, _line(), "", bad)


def test_speakers_that_nobody_labelled_are_kept_apart(tmp_path: Path) -> None:
    _write(tmp_path, "a.flac")
    _write(tmp_path, "b.flac")
    (tmp_path / "manifest.jsonl").write_text(_line(speaker="") + "\n" + _line(speaker="", path="b.flac"))
    first, second = load_corpus(tmp_path)
    assert first.speaker != second.speaker


def test_a_recording_that_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    _write(tmp_path, "slow.wav", rate=8_000)
    _write(tmp_path, "stereo.wav", channels=2)
    (tmp_path / "text.flac").write_text("not audio")
    for name, told in (
        ("gone.flac", "exist"),
        ("slow.wav", "8000"),
        ("stereo.wav", "2 channels"),
        ("text.flac", "no read"),
    ):
        message = _load_error(tmp_path, _line(path=name))
        assert name in message
        assert told in message


def test_the_same_seed_speaks_the_same_corpus() -> None:
    one, other = (synthesise_corpus(seed=3, clips=6, speakers=4) for _ in range(2))
    for left, right in zip([*one[0], *one[1][:3]], [*other[0], *other[1][:3]], strict=True):
        assert (left.text, left.speaker, left.split) == (right.text, right.speaker, right.split)
        assert np.array_equal(left.samples(), right.samples())
    texts = [clip.text for clip in synthesise_corpus(seed=4, clips=6, speakers=4)[0]]
    assert texts != [clip.text for clip in one[0]]


def test_populations_differ_in_accent_and_no_speaker_is_on_both_sides() -> None:
    home, new = synthesise_corpus(seed=1, clips=200, speakers=20)
    assert not {clip.accent for clip in home} & {clip.accent for clip in new}
    for clips in (home, new):
        sides = {split: {c.speaker for c in clips if c.split == split} for split in ("train", "test")}
        assert sides["train"]
        assert sides["test"]
        assert not sides["train"] & sides["test"]
    assert all(set(clip.text) <= set("abcdefghijklmnopqrstuvwxyz' ") for clip in home + new)


def test_a_corpus_of_one_clip_can_be_asked_for_and_of_none_cannot() -> None:
    assert len(synthesise_corpus(seed=1, clips=1, speakers=8)[0]) == 1
    with pytest.raises(CorpusError):
        synthesise_corpus(seed=1, clips=0, speakers=8)


def test_real_recordings_load(corpus: Path) -> None:
    clips = [clip for clip in load_corpus(corpus) if clip.corpus == "an4"]
    assert len(clips) == 1_078
    assert {clip.split for clip in clips} == {"train", "test"}
    assert clips[0].samples().size > 8_000
