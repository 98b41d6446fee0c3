"""The acoustic network: separable 1-D convolutions with squeeze-and-excitation, trained with CTC.

After QuartzNet (Kriman et al., 2019) and ContextNet (Han et al., 2020), behind a stem of 2-D convolutions (Amodei et
al., 2016) that lowers the frame rate. Depthwise convolutions are 2-D (1 × k) in channels-last memory, three times as
fast on CPU as 1-D ones.

Shapes: B batch, N samples, T feature frames (10 ms), S output frames (T / stride), M mel bins, F bins left of them,
P planes, C channels, V classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from voice_pipeline.speech.depthwise import DepthwiseConvolution
from voice_pipeline.speech.frontend import LogMel
from voice_pipeline.speech.shape import EncoderConfig
from voice_pipeline.speech.tokenizer import BLANK

SQUEEZE = 8
DROPPED_FRAMES = 4
BLANK_LOGIT = 4.0
"""An untrained network says blank, not just anything. One that happens to say spaces takes these for silence, unlearns
that for many epochs (texts of one word have none) and ends up worse.
"""


class Stem(nn.Module):
    """Features as a picture of time and frequency: 3 × 3 convolutions that each halve the bins, the first ones the
    frames too, then every frame's planes and bins together become C channels.

    The same filters serve all bins, so a formant that another vocal tract moves is still the formant, and speakers whom
    nobody has heard are understood better than by a convolution over time with a weight for every bin.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.strides = [2 if 2**layer < config.stride else 1 for layer in range(len(config.planes))]
        widths, bins = [1, *config.planes], config.mels
        self.convolutions, self.normalise = nn.ModuleList(), nn.ModuleList()
        for before, after, stride in zip(widths, config.planes, self.strides, strict=False):
            self.convolutions.append(nn.Conv2d(before, after, 3, stride=(stride, 2), padding=1, bias=False))
            self.normalise.append(nn.BatchNorm2d(after))
            bins = -(-bins // 2)
        self.flatten = nn.Conv2d(widths[-1] * bins, config.channels, 1, bias=False)
        self.flat_normalise = nn.BatchNorm2d(config.channels)

    def forward(self, features_BTM: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:  # noqa: N803
        """x (B, C, 1, S), and the mask (B, 1, 1, S) of real frames where lengths are given."""
        x_BPTF = features_BTM.unsqueeze(1)  # noqa: N806
        if lengths_B is not None:
            x_BPTF = x_BPTF * _mask(lengths_B, x_BPTF.shape[2], x_BPTF.dtype).transpose(2, 3)  # noqa: N806
        for convolution, normalise, stride in zip(self.convolutions, self.normalise, self.strides, strict=True):
            x_BPTF = torch.relu(normalise(convolution(x_BPTF)))  # noqa: N806
            if lengths_B is not None:
                lengths_B = (lengths_B + stride - 1) // stride  # noqa: N806
                x_BPTF = x_BPTF * _mask(lengths_B, x_BPTF.shape[2], x_BPTF.dtype).transpose(2, 3)  # noqa: N806
        x_BC1S = x_BPTF.permute(0, 2, 3, 1).flatten(2).transpose(1, 2).unsqueeze(2)  # noqa: N806 - copies nothing
        x_BC1S = torch.relu(self.flat_normalise(self.flatten(x_BC1S)))  # noqa: N806
        if lengths_B is None:
            return x_BC1S, None
        mask = _mask(lengths_B, x_BC1S.shape[3], x_BC1S.dtype)  # of x's type: bfloat16 stays such
        return x_BC1S * mask, mask


class SeparableConvolution(nn.Module):
    """Depthwise (1 × k) then pointwise convolution, batch normalisation."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = DepthwiseConvolution(channels, kernel)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.normalise = nn.BatchNorm2d(channels)

    def forward(self, x_BC1S: Tensor) -> Tensor:  # noqa: N803
        return self.normalise(self.pointwise(self.depthwise(x_BC1S)))


class SqueezeExcite(nn.Module):
    """Scales channels by what the whole utterance holds of them (Hu et al., 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // SQUEEZE, 1)
        self.excite = nn.Conv2d(channels // SQUEEZE, channels, 1)

    def forward(self, x_BC1S: Tensor, mask_B11S: Tensor | None) -> Tensor:  # noqa: N803
        if mask_B11S is None:
            mean = x_BC1S.mean(dim=3, keepdim=True)
        else:
            mean = (x_BC1S * mask_B11S).sum(dim=3, keepdim=True) / mask_B11S.sum(dim=3, keepdim=True)
        return x_BC1S * torch.sigmoid(self.excite(torch.relu(self.squeeze(mean))))


class BlockDropout(nn.Module):
    """Drops a channel for DROPPED_FRAMES neighbouring frames at once, and applies the padding mask in the same step.

    Neighbouring frames say nearly the same, so single ones are hardly missed (DropBlock, Ghiasi et al., 2018); and the
    random numbers of plain dropout took a sixth of the training time on CPU.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x_BC1S: Tensor, mask_B11S: Tensor | None) -> Tensor:  # noqa: N803
        if not self.training or self.share == 0:
            return x_BC1S if mask_B11S is None else x_BC1S * mask_B11S
        batch, channels, _, steps = x_BC1S.shape
        keep = x_BC1S.new_empty(batch, -(-steps // DROPPED_FRAMES), channels).bernoulli_(1 - self.share)
        scale = keep.div_(1 - self.share).repeat_interleave(DROPPED_FRAMES, dim=1)[:, :steps]
        scale_BC1S = scale.transpose(1, 2).unsqueeze(2)  # channels-last in memory, as x  # noqa: N806
        return x_BC1S * (scale_BC1S if mask_B11S is None else scale_BC1S * mask_B11S)


class ResidualBlock(nn.Module):
    """`repeats` separable convolutions, squeeze-and-excitation, and the input added back."""

    def __init__(self, channels: int, kernel: int, repeats: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(SeparableConvolution(channels, kernel) for _ in range(repeats))
        self.excite = SqueezeExcite(channels)
        self.dropout = BlockDropout(dropout)

    def forward(self, x_BC1S: Tensor, mask_B11S: Tensor | None) -> Tensor:  # noqa: N803
        y = x_BC1S
        for index, convolution in enumerate(self.convolutions):
            if index > 0:
                y = self.dropout(torch.relu(y), mask_B11S)
            y = convolution(y)
        return self.dropout(torch.relu(x_BC1S + self.excite(y, mask_B11S)), mask_B11S)


class Encoder(nn.Module):
    """Features (B, T, M) → log-probabilities (B, S, V), S = ceil(T / stride)."""

    def __init__(self, config: EncoderConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.stem = Stem(config)
        self.blocks = nn.ModuleList(ResidualBlock(channels, k, config.repeats, dropout) for k in config.kernels)
        self.head = nn.Conv2d(channels, config.classes, 1)
        with torch.no_grad():
            self.head.bias.zero_()  # type: ignore[union-attr]
            self.head.bias[BLANK] = BLANK_LOGIT  # type: ignore[index]

    def forward(self, features_BTM: Tensor, lengths_B: Tensor | None = None) -> Tensor:  # noqa: N803
        """`lengths_B` (frames T) marks padding behind shorter utterances, which then changes nothing before it."""
        x, mask = self.stem(features_BTM, lengths_B)
        for block in self.blocks:
            x = block(x, mask)
        return torch.log_softmax(self.head(x).squeeze(2).transpose(1, 2).float(), dim=2)

    def output_lengths(self, lengths_B: Tensor) -> Tensor:  # noqa: N803
        """Output frames S of utterances of `lengths_B` feature frames."""
        return (lengths_B + self.config.stride - 1) // self.config.stride


def _mask(lengths_B: Tensor, steps: int, dtype: torch.dtype) -> Tensor:  # noqa: N803
    """(B, 1, 1, steps): one before each length, zero from there on."""
    positions = torch.arange(steps, device=lengths_B.device)
    return (positions < lengths_B[:, None]).to(dtype)[:, None, None, :]


class AcousticModel(nn.Module):
    """What is exported: waveform (B, N) float32 at 16 kHz, N ≥ 160 → log-probabilities (B, S, V)."""

    def __init__(self, config: EncoderConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.frontend = LogMel(config.mels)
        self.encoder = Encoder(config, dropout).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, waveform_BN: Tensor) -> Tensor:  # noqa: N803
        return self.encoder(self.frontend(waveform_BN))

    @property
    def parameter_count(self) -> int:
        """Trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
