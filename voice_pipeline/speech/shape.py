"""The shape of the acoustic network, by name and in numbers: what can be compared without loading PyTorch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from voice_pipeline.speech.audio import SAMPLE_RATE
from voice_pipeline.speech.errors import PresetError
from voice_pipeline.speech.measures import HOP


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that decides the network's shape. The stem turns M mel bins into C channels every `stride` frames (a
    power of two) by one 2-D convolution of each width in `planes`; `kernels` gives one residual block each, of
    `repeats` separable convolutions.
    """

    channels: int
    kernels: tuple[int, ...]
    planes: tuple[int, ...] = (16, 32, 48)
    stride: int = 2
    repeats: int = 2
    mels: int = 80
    classes: int = 29

    def __post_init__(self) -> None:
        if self.stride not in [2**halvings for halvings in range(len(self.planes) + 1)]:
            raise PresetError(f"stride {self.stride} is not among those that {len(self.planes)} planes can make")

    @property
    def frame_shift_s(self) -> float:
        """Seconds between two output frames."""
        return self.stride * HOP / SAMPLE_RATE

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "kernels": list(self.kernels), "planes": list(self.planes)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> EncoderConfig:
        """Raises:
        TypeError, KeyError, PresetError: `content` is not what `to_dict` wrote.
        """
        return cls(**{**content, "kernels": tuple(content["kernels"]), "planes": tuple(content["planes"])})


PRESETS: dict[str, EncoderConfig] = {
    "micro": EncoderConfig(channels=144, kernels=(9, 11, 13), planes=(8, 16, 24), stride=4),
    "tiny": EncoderConfig(channels=192, kernels=(11, 13, 15, 17, 19, 21)),
    "small": EncoderConfig(channels=384, kernels=(11, 13, 15, 17, 19, 21, 23, 25), planes=(32, 48, 64), repeats=3),
    "base": EncoderConfig(channels=640, kernels=(11, 13, 15, 17, 19, 21, 23, 25), planes=(32, 48, 64), repeats=4),
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
