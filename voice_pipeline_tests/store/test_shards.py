"""A shard is the same bytes for the same members, and yields only what its subjects' keys still open."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voice_pipeline.store.errors import BlobDigestError, DamagedShardError
from voice_pipeline.store.shards import ShardMember, read_shard, write_shard
from voice_pipeline.store.store import Store


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(sizes=st.lists(st.integers(min_value=0, max_value=3000), max_size=8), seed=st.integers(min_value=0))
def test_the_same_members_in_any_order_give_the_same_bytes(tmp_path: Path, sizes: list[int], seed: int) -> None:
    rng = random.Random(seed)
    members = [ShardMember(f"clip-{n}", rng.randbytes(size)) for n, size in enumerate(sizes)]
    write_shard(tmp_path / "a.tar", members)
    rng.shuffle(members)
    write_shard(tmp_path / "b.tar", members)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def shard_of(store: Store, path: Path, clips: dict[str, str]) -> None:
    members = [ShardMember(clip, store.vault.encrypt(subject, clip.encode(), clip)) for clip, subject in clips.items()]
    write_shard(path, members)


def test_only_named_clips_of_living_subjects_are_read(store: Store, tmp_path: Path) -> None:
    clips = {"a": "s1", "b": "s2", "c": "s1", "d": "s3"}
    shard_of(store, tmp_path / "x.tar", clips)
    before = (tmp_path / "x.tar").read_bytes()
    store.vault.destroy("s1")
    asked = {clip: subject for clip, subject in clips.items() if clip != "d"}
    assert list(read_shard(tmp_path / "x.tar", asked, store.vault)) == [("b", b"b")]
    assert (tmp_path / "x.tar").read_bytes() == before


def test_a_member_passed_off_as_another_clip_is_refused(store: Store, tmp_path: Path) -> None:
    write_shard(tmp_path / "x.tar", [ShardMember("b", store.vault.encrypt("s", b"audio of a", "a"))])
    with pytest.raises(BlobDigestError, match="another clip"):
        list(read_shard(tmp_path / "x.tar", {"b": "s"}, store.vault))


def test_what_is_no_shard_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DamagedShardError, match=r"x\.tar"):
        list(read_shard(tmp_path / "x.tar", {}, store.vault))


def test_a_shard_cut_short_is_noticed(store: Store, tmp_path: Path) -> None:
    shard_of(store, tmp_path / "x.tar", {f"clip-{n}": "s" for n in range(20)})
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[:1300])
    with pytest.raises((DamagedShardError, BlobDigestError)):
        list(read_shard(tmp_path / "x.tar", {f"clip-{n}": "s" for n in range(20)}, store.vault))
