"""How fast and in how much memory the recipe trains here, in a process of its own.

`python -m voice_pipeline.published.throughput CORPUS COPIES EPOCHS PARAMETERS` prints one JSON line. COPIES repeats
every training recording that often, each under a speaker and an id of its own: the same data, so many times as much.
PARAMETERS are the hyperparameters as JSON; of the run they plan only the first EPOCHS are trained.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from voice_pipeline.packaging.footprint import peak_memory_mb
from voice_pipeline.published.corpus import PublishedError, Splits, hear, read_recordings, read_sounds
from voice_pipeline.published.recipe import spec_of
from voice_pipeline.schema.base import Record
from voice_pipeline.schema.training import Hyperparameters
from voice_pipeline.speech.audio import SAMPLE_RATE
from voice_pipeline.training.environment import ONE_BLAS_THREAD


class Throughput(Record):
    """`audio_s_per_s` of the median epoch; `peak_mb` of the whole process, PyTorch's own libraries included."""

    audio_s_per_s: float
    peak_mb: float
    audio_s: float
    epochs: int


def measure_throughput(corpus: Path, copies: int, epochs: int, hyperparameters: Hyperparameters) -> Throughput:
    """Train some epochs and see.

    Raises:
        PublishedError: the training failed; its last line says why.
    """
    command = [sys.executable, "-m", "voice_pipeline.published.throughput", str(corpus), str(copies), str(epochs)]
    command.append(hyperparameters.model_dump_json())
    environment = {**ONE_BLAS_THREAD, **os.environ}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PublishedError(f"training for the benchmark failed: {(done.stderr.splitlines() or ['no message'])[-1]}")
    return Throughput.model_validate_json(done.stdout.splitlines()[-1])


class _EnoughError(Exception):
    """Ends a run that is longer than the benchmark wants."""


def main(arguments: list[str]) -> None:
    """Train and print."""
    from voice_pipeline.training.data import Utterances
    from voice_pipeline.training.trainer import EpochReport, train

    corpus, copies, epochs = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    hyperparameters = Hyperparameters.model_validate_json(arguments[3])
    parts = read_recordings(corpus)
    repeated = [
        replace(recording, clip_id=f"{copy}/{recording.clip_id}", speaker=f"{copy}/{recording.speaker}")
        for copy in range(copies)
        for recording in parts["train"]
    ]
    few = Utterances(parts["dev"][:8], hear)
    splits = Splits(Utterances(repeated, hear), few, few, "throughput")
    seen: list[EpochReport] = []

    def count(report: EpochReport) -> None:
        seen.append(report)
        if len(seen) == epochs:
            raise _EnoughError

    with tempfile.TemporaryDirectory() as folder:
        spec, noises = spec_of(splits, "", hyperparameters, 1), read_sounds(corpus, "noise")
        with contextlib.suppress(_EnoughError):
            train(spec, splits.train, splits.dev, noises, Path(folder), None, count, read_sounds(corpus, "rir"))
    result = Throughput(
        audio_s_per_s=median(report.audio_s_per_s for report in seen),
        peak_mb=peak_memory_mb(),
        audio_s=sum(splits.train.sample_counts) / SAMPLE_RATE,
        epochs=len(seen),
    )
    sys.stdout.write(result.model_dump_json() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
