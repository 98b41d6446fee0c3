"""Trains on the language of tones, prints the epochs' losses as JSON: `python -m … FOLDER CLIPS`, alone or in a team.

In float32 and at a low rate: rounding in another order is small at first, and both would let it grow.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from voice_pipeline.training import trainer
from voice_pipeline.training.team import Team
from voice_pipeline_tests.training.speech_made_of_tones import language, spec_of


def main(folder: Path, clips: int) -> None:
    torch.set_num_threads(1)
    trainer.uses_bfloat16 = lambda device: False
    team = Team.join()
    spec = spec_of(
        dropout=0.0,
        max_epochs=3,
        learning_rate=2e-4,
        batch_size=5,  # and fewer in one batch: a process is idle there
        splice_share=0.5,
        splice_from=0.3,
    )
    result = trainer.train(spec, language(clips), language(8, seed=1), [], folder)
    if team.leads:
        sys.stdout.write(json.dumps([[epoch.loss, epoch.dev_wer] for epoch in result.epochs]) + "\n")
    team.leave()
    left = [
        name for name in (path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")) if "gloo" in name
    ]
    if left:
        raise SystemExit(f"threads outlive the meeting: {left}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
