"""The gradient by matrix products is the gradient that PyTorch computes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_pipeline.speech.depthwise import TILE, DepthwiseConvolution, weight_gradient


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3 * TILE), st.sampled_from([1, 3, 9, 21]))
def test_it_is_the_sum_over_all_positions(batch: int, channels: int, steps: int, kernel: int) -> None:
    generator = torch.Generator().manual_seed(batch * 1000 + steps)
    x = torch.randn(batch, channels, 1, steps, generator=generator, dtype=torch.float64)
    gradient = torch.randn(batch, channels, 1, steps, generator=generator, dtype=torch.float64)
    weight = torch.zeros(channels, 1, 1, kernel, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.conv2d(x, weight, padding=(0, kernel // 2), groups=channels).backward(gradient)
    assert weight.grad is not None
    assert torch.allclose(weight_gradient(x, gradient, kernel).double(), weight.grad[:, 0, 0], atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_under_autocast_it_computes_what_it_computes_without(training: bool) -> None:
    torch.manual_seed(0)
    layer = DepthwiseConvolution(6, 11).train(training)
    x = torch.randn(3, 6, 1, 70, requires_grad=True)
    goal = torch.randn(3, 6, 1, 70)

    def gradients(autocast: bool) -> list[torch.Tensor]:
        layer.zero_grad()
        x.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = layer(x)
        assert output.dtype is (torch.bfloat16 if autocast else torch.float32)
        (output.float() * goal).sum().backward()
        assert layer.weight.grad is not None
        assert x.grad is not None
        return [output.float(), layer.weight.grad.clone(), x.grad.clone()]

    for exact, rounded in zip(gradients(False), gradients(True), strict=True):
        assert exact.shape == rounded.shape
        assert float((exact - rounded).norm() / exact.norm()) < 0.02
