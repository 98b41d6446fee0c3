"""Trains two epochs and prints peak memory, disk and the estimates of both: `python -m … PRESET FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from voice_pipeline.published.throughput import peak_memory_mb
from voice_pipeline.training.data import Utterance
from voice_pipeline.training.estimates import disk_needed, memory_needed
from voice_pipeline.training.trainer import train
from voice_pipeline_tests.training.speech_made_of_tones import language, spec_of


def longer(clip: Utterance) -> Utterance:
    """The clip said four times over, for batches of a size that shows."""
    import numpy as np

    return Utterance(clip.clip_id, clip.speaker, " ".join([clip.text] * 4), np.tile(clip.samples, 4))


def main(preset: str, folder: Path) -> None:
    spec = spec_of(preset=preset, max_epochs=2, batch_size=16)
    clips = [longer(clip) for clip in language(32)]
    counts = [clip.sample_count for clip in clips]
    disk = 0

    def report(_epoch: object) -> None:
        nonlocal disk
        disk = max(disk, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))

    train(spec, clips, clips[:8], [], folder, None, report)
    figures = {
        "peak_mb": round(peak_memory_mb()),
        "memory_estimate_mb": memory_needed(spec, counts).megabytes,
        "disk_mb": disk // 1_000_000,
        "disk_estimate_mb": disk_needed(spec).megabytes,
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
