"""What a plan will take of this machine, in bytes, before any of it is spent: by counting, not by trying.

The network is built without memory (PyTorch's meta device) and its parameters are counted; the rest follows from the
batch bound, what the backward pass keeps, the optimiser's states and what is written after every epoch. Upper bounds:
`test_estimates.py` holds them to what autograd keeps and to real runs on CPU whose batches have many shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from voice_pipeline.schema.training import TrainingSpec
from voice_pipeline.speech.audio import SAMPLE_RATE
from voice_pipeline.speech.augmentation import SPEEDS_PERCENT, TEMPO_HOPS
from voice_pipeline.speech.frontend import HOP, frames_of
from voice_pipeline.speech.shape import EncoderConfig, preset
from voice_pipeline.speech.tokenizer import CharTokenizer

MEGABYTE = 1_000_000
FLOAT = 4
PROCESS = 650 * MEGABYTE
"""Interpreter, PyTorch, SciPy and their libraries, synthetic noises and rooms."""
KERNELS = 350 * MEGABYTE
"""oneDNN keeps the kernels that it built (`trainer.KERNELS_KEPT`), some 37 or 4.5 MB for every new shape of a batch of
`tiny`; an epoch has up to about 70 shapes.
"""
LIVE_COPIES = 6
"""Weights, gradients, two moments, the update being made, averaged weights."""
STATE_COPIES = 5
"""Weights, averaged weights, two moments, best weights: `state.pt`."""
TENSORS_A_CONVOLUTION = 5.5
"""Kept for the backward pass, of S × C each; 5.3 were measured."""
TENSORS_A_PLANE = 4.0
"""Likewise, of the stem's frames × bins × planes; 3.8 were measured."""
TENSORS_IN_EVALUATION = 4
HOLES = 2.25
"""The heap as a multiple of what is kept in float32: where tensors always have other sizes, it fills with holes between
what lives longer, above all kernels. A run of 80 epochs of `tiny` on AN4, in bfloat16, came to 1.9.
"""
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


def memory_needed(
    spec: TrainingSpec, sample_counts: Sequence[int], sounds_s: float = 0.0, processes: int = 1
) -> Estimate:
    """What training `spec` takes at its peak of a machine without GPU.

    Args:
        sample_counts: lengths of the train and dev utterances, in samples of 16 kHz.
        sounds_s: seconds of noises and room responses that are mixed in.
        processes: those on this machine that share every batch.
    """
    network = network_memory_needed(spec, sample_counts, processes).parts
    host = host_memory_needed(spec, sample_counts, sounds_s, processes).parts
    return Estimate({**host, **{name: processes * size for name, size in network.items()}})


def host_memory_needed(
    spec: TrainingSpec, sample_counts: Sequence[int], sounds_s: float = 0.0, processes: int = 1
) -> Estimate:
    """The part of `memory_needed` that lies in the host's memory where GPUs hold the networks, too."""
    from voice_pipeline.training.batches import AHEAD

    config = _config(spec)
    batch = _batch_frames(spec, sample_counts, processes)
    state = STATE_COPIES * FLOAT * parameter_count(config)
    launcher = 1 if processes > 1 else 0
    return Estimate(
        {
            "process": (processes + launcher) * PROCESS,
            "kernels": processes * KERNELS,
            "noises and rooms": processes * round(sounds_s * SAMPLE_RATE) * FLOAT,
            "state being saved": 2 * state,  # the copies, and the bytes of the file; one process saves
            "batches ahead": processes * (AHEAD + 2) * batch * config.mels * FLOAT,
        }
    )


def network_memory_needed(spec: TrainingSpec, sample_counts: Sequence[int], processes: int = 1) -> Estimate:
    """What one of the `processes` takes where it computes: of its GPU if there are any, else of the host."""
    from voice_pipeline.training.batches import MOST_FRAMES
    from voice_pipeline.training.trainer import DEV_BATCH

    config = _config(spec)
    kept = kept_for_backward(config, _batch_frames(spec, sample_counts, processes))
    longest = _padded(max(map(frames_of, sample_counts), default=0))
    judged = min(DEV_BATCH * longest, max(MOST_FRAMES, longest))
    evaluation = TENSORS_IN_EVALUATION * (_outputs(config, judged) + max(_planes(config, judged)))
    return Estimate(
        {
            "weights and optimiser": LIVE_COPIES * FLOAT * parameter_count(config),
            "one batch": round(HOLES * max(kept, evaluation)),
        }
    )


def kept_for_backward(config: EncoderConfig, frames: int) -> int:
    """Bytes of the float32 tensors that the encoder's forward pass keeps of `frames` feature frames, padding
    included.
    """
    convolutions = len(config.kernels) * config.repeats * _outputs(config, frames)
    return round(TENSORS_A_CONVOLUTION * convolutions + TENSORS_A_PLANE * sum(_planes(config, frames)))


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


def _batch_frames(spec: TrainingSpec, sample_counts: Sequence[int], processes: int) -> int:
    """Feature frames, padding included, of the largest part of a batch that one process can get."""
    from voice_pipeline.training.batches import FRAME_MULTIPLE, LONGEST_JOIN_FRAMES, MOST_FRAMES

    parameters = spec.hyperparameters
    longest = max(map(frames_of, sample_counts), default=0)
    if parameters.splice_share > 0:
        longest *= 2  # all of one utterance but its last word, all of another but its first
    if parameters.join_share > 0:
        longest = max(longest, LONGEST_JOIN_FRAMES)
    if parameters.speed_perturbation:
        longest = -(-longest * 100 // min(SPEEDS_PERCENT))
    if parameters.tempo_perturbation:
        longest = -(-longest * HOP // min(TEMPO_HOPS))
    rows = -(-parameters.batch_size // processes)
    planned = max(MOST_FRAMES, longest)  # plan_epoch counts no padding
    return min(rows * _padded(longest), planned + rows * FRAME_MULTIPLE)


def _padded(frames: int) -> int:
    from voice_pipeline.training.batches import FRAME_MULTIPLE

    return -(-frames // FRAME_MULTIPLE) * FRAME_MULTIPLE


def _outputs(config: EncoderConfig, frames: int) -> int:
    """Bytes of one float32 tensor of C channels over `frames` feature frames."""
    return frames // config.stride * config.channels * FLOAT


def _planes(config: EncoderConfig, frames: int) -> list[int]:
    """Bytes of one float32 tensor of each layer of the stem: all halve the bins, the first ones the frames too."""
    return [
        frames // min(2 ** (layer + 1), config.stride) * -(-config.mels // 2 ** (layer + 1)) * planes * FLOAT
        for layer, planes in enumerate(config.planes)
    ]
