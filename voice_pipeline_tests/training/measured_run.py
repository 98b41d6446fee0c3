"""Trains a while, prints peak memory, disk and the estimates of both: `python -m … PRESET BATCH COPIES EPOCHS FOLDER`.

COPIES of the same clips, each decoded anew whenever it is heard, as clips of a home are: the same lengths, so many
times as much data. Batches have many shapes, for every one costs memory.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from voice_pipeline.published.throughput import peak_memory_mb
from voice_pipeline.speech.encoder import Encoder
from voice_pipeline.training.data import Utterance, Utterances
from voice_pipeline.training.estimates import disk_needed, memory_needed
from voice_pipeline.training.trainer import train
from voice_pipeline_tests.training.speech_made_of_tones import language, spec_of


@dataclass(frozen=True)
class Row:
    """A clip that is said `times` over, and not yet heard."""

    clip: Utterance
    times: int
    copy: int

    @property
    def clip_id(self) -> str:
        return f"{self.clip.clip_id}-{self.copy}"

    @property
    def speaker(self) -> str:
        return f"{self.clip.speaker}-{self.copy}"

    @property
    def text(self) -> str:
        return " ".join([self.clip.text] * self.times)

    @property
    def sample_count(self) -> int:
        return self.clip.sample_count * self.times

    def hear(self) -> Utterance:
        import numpy as np

        return Utterance(self.clip_id, self.speaker, self.text, np.tile(self.clip.samples, self.times))


def utterances(copies: int) -> Utterances:
    """96 clips of 0.4 to 16 s, 557 s together, `copies` times over."""
    rows = [Row(clip, 1 + n % 9, copy) for copy in range(copies) for n, clip in enumerate(language(96))]
    return Utterances(rows, Row.hear)


def main(preset: str, batch: int, copies: int, epochs: int, folder: Path) -> None:
    spec = spec_of(preset=preset, max_epochs=epochs, patience_epochs=epochs, batch_size=batch)
    clips = utterances(copies)
    disk, shapes = 0, set()

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, Encoder):
            shapes.add(tuple(inputs[0].shape))

    def report(_epoch: object) -> None:
        nonlocal disk
        disk = max(disk, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))

    register_module_forward_pre_hook(note)
    train(spec, clips, clips[:16], [], folder, None, report)
    figures = {
        "peak_mb": round(peak_memory_mb()),
        "memory_estimate_mb": memory_needed(spec, clips.sample_counts).megabytes,
        "disk_mb": disk // 1_000_000,
        "disk_estimate_mb": disk_needed(spec).megabytes,
        "shapes": len(shapes),
        "audio_s": sum(clips.sample_counts) // 16_000,
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
