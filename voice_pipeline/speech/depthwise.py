"""Depthwise convolution whose weight gradient is a matrix product on CPUs that train in bfloat16.

oneDNN, which PyTorch calls, computes that gradient tap by tap: for 192 channels and bfloat16 it took a third of a
training step. Written as one small matrix product a channel it runs on the matrix units, four times as fast. Forward
pass, input gradient and every other device are PyTorch's own.

Shapes: B batch, C channels, S steps, K kernel (odd), N tiles, W = TILE + K - 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

TILE = 32
STRIDE, DILATION, NO_OUTPUT_PADDING = [1, 1], [1, 1], [0, 0]


class DepthwiseConvolution(nn.Conv2d):
    """(B, C, 1, S) → (B, C, 1, S), one filter (1 × K) a channel, no bias."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__(channels, channels, (1, kernel), padding=(0, kernel // 2), groups=channels, bias=False)

    def forward(self, x_BC1S: Tensor) -> Tensor:  # noqa: N803
        if self.training and x_BC1S.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            output: Tensor = _TiledGradient.apply(x_BC1S.to(dtype), self.weight.to(dtype))  # type: ignore[no-untyped-call]
            return output
        return super().forward(x_BC1S)


class _TiledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BC1S: Tensor, weight_C11K: Tensor) -> Tensor:  # noqa: N803
        ctx.save_for_backward(x_BC1S, weight_C11K)
        channels, kernel = weight_C11K.shape[0], weight_C11K.shape[3]
        return nn.functional.conv2d(x_BC1S, weight_C11K, padding=(0, kernel // 2), groups=channels)

    @staticmethod
    def backward(ctx: Any, gradient_BC1S: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # noqa: N803
        x_BC1S, weight_C11K = ctx.saved_tensors  # noqa: N806
        channels, kernel = weight_C11K.shape[0], weight_C11K.shape[3]
        of_input = torch.ops.aten.convolution_backward(
            *(gradient_BC1S, x_BC1S, weight_C11K, None, STRIDE, [0, kernel // 2], DILATION, False),
            *(NO_OUTPUT_PADDING, channels, [True, False, False]),
        )[0]
        of_weight = weight_gradient(x_BC1S, gradient_BC1S, kernel).to(weight_C11K.dtype)
        return of_input, of_weight[:, None, None, :]


def weight_gradient(x_BC1S: Tensor, gradient_BC1S: Tensor, kernel: int) -> Tensor:  # noqa: N803
    """(C, K) float32: for every channel and tap the sum over batch and steps of gradient · input at that tap.

    Steps are cut into tiles; the product of the tiles of gradient and (wider) input holds the sums on its diagonals.
    """
    channels, steps = x_BC1S.shape[1], x_BC1S.shape[3]
    side, rest, width = kernel // 2, -steps % TILE, TILE + kernel - 1
    x_CBS = nn.functional.pad(x_BC1S.squeeze(2), (side, side + rest)).transpose(0, 1).contiguous()  # noqa: N806
    x_CNW = x_CBS.unfold(2, width, TILE).reshape(channels, -1, width)  # noqa: N806
    gradient_CNT = (  # noqa: N806
        nn.functional.pad(gradient_BC1S.squeeze(2), (0, rest)).transpose(0, 1).reshape(channels, -1, TILE)
    )
    products = torch.bmm(gradient_CNT.transpose(1, 2), x_CNW)
    return products.as_strided((channels, kernel, TILE), (TILE * width, 1, width + 1)).sum(2, dtype=torch.float32)
