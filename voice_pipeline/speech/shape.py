"""The shape of the acoustic network, by name and in numbers: what can be compared without loading PyTorch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from voice_pipeline.speech.audio import SAMPLE_RATE
from voice_pipeline.speech.errors import PresetError
from voice_pipeline.speech.measures import HOP


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that decides the network's shape. `kernels` gives one residual block each, of `repeats` separable
    convolutions; the stem turns M mel bins into C channels every `stride` frames.
    """

    channels: int
    kernels: tuple[int, ...]
    stem_kernel: int = 9
    stride: int = 2
    repeats: int = 2
    mels: int = 80
    classes: int = 29

    @property
    def frame_shift_s(self) -> float:
        """Seconds between two output frames."""
        return self.stride * HOP / SAMPLE_RATE

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "kernels": list(self.kernels)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> EncoderConfig:
        """Raises:
        TypeError, KeyError: `content` is not what `to_dict` wrote.
        """
        return cls(**{**content, "kernels": tuple(content["kernels"])})


PRESETS: dict[str, EncoderConfig] = {
    "micro": EncoderConfig(channels=144, kernels=(9, 11, 13), stride=4, stem_kernel=11),
    "tiny": EncoderConfig(channels=192, kernels=(11, 13, 15, 17, 19, 21), stride=2),
    "small": EncoderConfig(channels=384, kernels=(11, 13, 15, 17, 19, 21, 23, 25), stride=2, repeats=3),
    "base": EncoderConfig(channels=640, kernels=(11, 13, 15, 17, 19, 21, 23, 25), stride=2, repeats=4),
}
"""Encoder sizes by name: micro ≤ 0.3 M, tiny ≤ 1 M, small ≤ 5 M, base ≤ 15 M parameters."""


def preset(name: str, classes: int) -> EncoderConfig:
    """The preset `name` for a tokenizer of `classes` classes.

    Raises:
        PresetError: there is no such preset.
    """
    if name not in PRESETS:
        raise PresetError(f"encoder preset {name!r} is not known; choose one of {', '.join(PRESETS)}")
    return EncoderConfig(**{**asdict(PRESETS[name]), "classes": classes})
