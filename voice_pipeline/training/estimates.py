"""What a plan will take of this machine, in bytes, before any of it is spent: by counting, not by trying.

The network is built without memory (PyTorch's meta device) and its parameters are counted; the rest follows from the
batch bound, the optimiser's states and what is written after every epoch. Measured against real runs on CPU, the
memory estimate lies above the peak (`test_estimates.py` holds it to that).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from voice_pipeline.schema.training import TrainingSpec
from voice_pipeline.speech.frontend import frames_of
from voice_pipeline.speech.shape import EncoderConfig, preset
from voice_pipeline.speech.tokenizer import CharTokenizer

MEGABYTE = 1_000_000
FLOAT = 4
PROCESS = 650 * MEGABYTE
"""Interpreter, PyTorch, SciPy and their libraries, noises and rooms."""
LIVE_COPIES = 6
"""Weights, gradients, two moments, the update being made, averaged weights."""
STATE_COPIES = 5
"""Weights, averaged weights, two moments, best weights: `state.pt`."""
TENSORS_A_CONVOLUTION = 11
"""Kept for the backward pass, of S × C each: 7 to 11 were measured over all presets."""
TENSORS_IN_EVALUATION = 4
CHECKPOINT_COPIES = 6
"""Checkpoint, its copy in MLflow, float graph, quantised candidates, signed bundle, its published copy."""
REPORTS = 30 * MEGABYTE
"""Evaluation reports, charts, model card."""


@dataclass(frozen=True)
class Estimate:
    """Bytes by what takes them."""

    parts: dict[str, int]

    @property
    def megabytes(self) -> int:
        """The sum, rounded up."""
        return -(-sum(self.parts.values()) // MEGABYTE)

    def __str__(self) -> str:
        told = ", ".join(f"{name} {-(-size // MEGABYTE)}" for name, size in self.parts.items())
        return f"{self.megabytes} MB ({told})"


def parameter_count(config: EncoderConfig) -> int:
    """Trainable parameters of a network of this shape."""
    import torch

    from voice_pipeline.speech.encoder import AcousticModel

    with torch.device("meta"):
        return AcousticModel(config).parameter_count


def memory_needed(spec: TrainingSpec, sample_counts: Sequence[int]) -> Estimate:
    """What training `spec` takes at its peak.

    Args:
        sample_counts: lengths of the train and dev utterances, in samples of 16 kHz.
    """
    from voice_pipeline.training.batches import AHEAD, LONGEST_JOIN_FRAMES, MOST_FRAMES
    from voice_pipeline.training.trainer import DEV_BATCH

    config = _config(spec)
    weights = FLOAT * parameter_count(config)
    frames = [frames_of(count) for count in sample_counts]
    longest = max([*frames, LONGEST_JOIN_FRAMES if spec.hyperparameters.join_share else 0])
    views = 2 if spec.hyperparameters.consistency > 0 else 1
    batch = min(views * spec.hyperparameters.batch_size * longest, max(MOST_FRAMES, views * longest))
    convolutions = len(config.kernels) * config.repeats
    activations = _outputs(config, batch) * convolutions * TENSORS_A_CONVOLUTION
    evaluation = _outputs(config, DEV_BATCH * max(frames, default=0)) * TENSORS_IN_EVALUATION
    state = STATE_COPIES * weights
    return Estimate(
        {
            "process": PROCESS,
            "weights and optimiser": LIVE_COPIES * weights,
            "state being saved": 2 * state,  # the copies, and the bytes of the file
            "one batch": max(activations, evaluation),
            "batches ahead": (AHEAD + 2) * batch * config.mels * FLOAT,
        }
    )


def disk_needed(spec: TrainingSpec) -> Estimate:
    """What the run and the bundle made of it write under the home."""
    weights = FLOAT * parameter_count(_config(spec))
    return Estimate(
        {
            "training state, old and new": 2 * STATE_COPIES * weights,
            "checkpoint, graphs and bundle": CHECKPOINT_COPIES * weights,
            "reports": REPORTS,
        }
    )


def _config(spec: TrainingSpec) -> EncoderConfig:
    return preset(spec.hyperparameters.preset.value, CharTokenizer(spec.alphabet).size)


def _outputs(config: EncoderConfig, frames: int) -> int:
    """Bytes of one tensor of C channels over `frames` feature frames."""
    return frames // config.stride * config.channels * FLOAT
