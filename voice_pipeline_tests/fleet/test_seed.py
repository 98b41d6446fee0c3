"""The seed dataset comes with the repository: a fresh clone can pull it, from nowhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from voice_pipeline.fleet.corpus import load_corpus
from voice_pipeline.fleet.seed import write_seed
from voice_pipeline.settings import PROJECT_ROOT

LIMIT_BYTES = 3_000_000


def test_a_fresh_clone_pulls_the_seed_dataset(tmp_path: Path) -> None:
    if shutil.which("git") is None or not (PROJECT_ROOT / ".git").exists():
        pytest.skip("needs Git and a checkout: this is an installation without them")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(PROJECT_ROOT), str(clone)], check=True)
    environment = {**os.environ, "DVC_SITE_CACHE_DIR": str(tmp_path / "site-cache"), "HOME": str(tmp_path)}
    pulled = subprocess.run(
        [sys.executable, "-m", "dvc", "pull"], cwd=clone, env=environment, capture_output=True, text=True
    )
    assert pulled.returncode == 0, pulled.stderr
    clips = load_corpus(clone / "data")
    assert len(clips) >= 200
    assert {clip.split for clip in clips} == {"train", "test"}
    assert not {c.speaker for c in clips if c.split == "test"} & {c.speaker for c in clips if c.split == "train"}
    assert clips[0].samples().size > 1000


def test_the_remote_is_small_and_its_address_is_inside_the_repository() -> None:
    objects = [path for path in (PROJECT_ROOT / "seed_remote").rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in objects) <= LIMIT_BYTES
    assert "url = ../seed_remote" in (PROJECT_ROOT / ".dvc" / "config").read_text()


def test_the_seed_is_a_corpus_like_any_other(tmp_path: Path) -> None:
    size = write_seed(tmp_path / "seed", clips=6, speakers=3, seed=1)
    clips = load_corpus(tmp_path / "seed")
    assert len(clips) == 6
    assert size < LIMIT_BYTES
    assert all(0.1 < clip.samples().size / 16_000 <= 30 for clip in clips)
