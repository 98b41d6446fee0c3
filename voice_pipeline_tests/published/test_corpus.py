"""The official split stays official, nobody is in two parts, and a wrong folder is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from voice_pipeline.published.corpus import PublishedError, read_recordings, read_sounds, read_splits


def test_parts_share_no_speaker_and_test_is_the_official_one(spoken_corpus: Path) -> None:
    splits = read_splits(spoken_corpus)
    speakers = [set(part.speakers) for part in (splits.train, splits.dev, splits.test)]
    assert speakers[2] == {"s9", "s10", "s11"}
    assert len(speakers[1]) == 1
    assert sum(map(len, speakers)) == len(set().union(*speakers)) == 12  # and nobody of another corpus


def test_real_an4_has_its_published_size(corpus: Path) -> None:
    splits = read_splits(corpus)
    assert len(splits.test) == 130
    assert sum(len(text.split()) for text in splits.test.texts) == 773
    assert len(splits.train) + len(splits.dev) == 948
    assert len(set(splits.train.speakers) | set(splits.dev.speakers)) == 74


def test_the_version_follows_the_content(spoken_corpus: Path, tmp_path: Path) -> None:
    lines = (spoken_corpus / "manifest.jsonl").read_text().splitlines()
    changed = [json.dumps({**json.loads(lines[0]), "text": "no"}), *lines[1:]]
    (tmp_path / "manifest.jsonl").write_text("\n".join(changed))
    assert read_splits(spoken_corpus).version == read_splits(spoken_corpus).version
    assert read_splits(tmp_path).version != read_splits(spoken_corpus).version


def test_what_is_heard_has_the_told_length(spoken_corpus: Path) -> None:
    train = read_splits(spoken_corpus).train
    assert all(train[n].samples.size == count for n, count in enumerate(train.sample_counts))
    assert [len(read_sounds(spoken_corpus, kind)) for kind in ("noise", "rir")] == [1, 1]


@pytest.mark.parametrize("content", [None, "not json", '{"corpus": "fsdd", "split": "train", "speaker": "a"}'])
def test_a_folder_without_an4_is_refused_by_name(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.jsonl").write_text(content)
    with pytest.raises(PublishedError, match=r"manifest\.jsonl"):
        read_recordings(tmp_path)
