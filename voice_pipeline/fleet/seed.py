"""The seed dataset: a small corpus that the project's own voices speak, kept in the repository's own DVC remote.

`dvc pull` puts it into `data/`, in the manifest format of every corpus (`voice-pipeline demo --corpus data`). It is
made once, by `python -m voice_pipeline.fleet.seed`, and changes only when someone decides so: Git then sees a new
`data.dvc` and new objects in `seed_remote/`. Opus (RFC 6716) at about 20 kbit/s keeps it far below 3 MB.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from voice_pipeline.settings import PROJECT_ROOT, QUIET
from voice_pipeline.speech.audio import SAMPLE_RATE
from voice_pipeline.store.blobs import write_atomically

if TYPE_CHECKING:
    from voice_pipeline.fleet.corpus import CorpusClip

CLIPS = 360
SPEAKERS = 30
SEED = 20260101
LICENCE = "Apache-2.0 (synthetic speech made by voice_pipeline with eSpeak NG)"


def write_seed(folder: Path, clips: int = CLIPS, speakers: int = SPEAKERS, seed: int = SEED) -> int:
    """Speak the home population of a seeded synthetic corpus into `folder`; returns its size in bytes.

    Raises:
        CorpusError: too few clips or speakers.
        SynthesisError: eSpeak NG is not installed.
    """
    from voice_pipeline.fleet.corpus import synthesise_corpus

    home, _ = synthesise_corpus(seed, clips, speakers)
    lines = [_write_clip(folder, clip) for clip in home]
    write_atomically(folder / "manifest.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def publish_seed(root: Path = PROJECT_ROOT) -> str:
    """Replace `root/data` by a fresh seed, version it and push it to `root/seed_remote`; returns its DVC md5."""
    os.environ.update(QUIET)
    from dvc.repo import Repo

    shutil.rmtree(root / "data", ignore_errors=True)
    shutil.rmtree(root / "seed_remote", ignore_errors=True)
    write_seed(root / "data")
    with Repo(str(root)) as repo:
        md5 = str(repo.add(str(root / "data"))[0].outs[0].hash_info.value)
        repo.push(targets=[str(root / "data.dvc")])
    return md5


def _write_clip(folder: Path, clip: CorpusClip) -> dict[str, object]:
    import soundfile

    samples = clip.samples()
    path = f"{clip.split}/{clip.speaker.replace(':', '-')}/{clip.name}.opus"
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / path, samples, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=0.96)
    return {
        "path": path,
        "text": clip.text,
        "speaker": clip.speaker,
        "accent": clip.accent,
        "gender": clip.gender,
        "age": clip.age,
        "duration_s": round(samples.size / SAMPLE_RATE, 3),
        "corpus": "seed",
        "split": clip.split,
        "licence": LICENCE,
    }


if __name__ == "__main__":
    publish_seed()
