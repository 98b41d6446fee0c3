"""The optimiser is AdamW, number for number, and goes on bit for bit from its stored state."""

from __future__ import annotations

import torch

from voice_pipeline.training.optimiser import BETAS, EPSILON, AdamW


def parameters() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in ((4, 3), (5,), (2, 2, 1, 3))]


def gradients(tensors: list[torch.Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for tensor in tensors:
        tensor.grad = torch.randn(tensor.shape, generator=generator)


def test_twenty_steps_equal_those_of_torch() -> None:
    ours, theirs = parameters(), parameters()
    groups = [{"params": [p], "weight_decay": 0.1 if p.ndim > 1 else 0.0} for p in theirs]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=BETAS, eps=EPSILON)
    optimiser = AdamW(ours, weight_decay=0.1)
    for step in range(20):
        gradients(ours, step)
        gradients(theirs, step)
        optimiser.step(0.01)
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)


def test_a_restored_optimiser_goes_on_bit_for_bit() -> None:
    whole, first = parameters(), parameters()
    straight, before = AdamW(whole, 0.1), AdamW(first, 0.1)
    for step in range(3):
        gradients(whole, step)
        straight.step(0.01)
        gradients(first, step)
        before.step(0.01)
    second = [tensor.detach().clone().requires_grad_() for tensor in first]
    after = AdamW(second, 0.1)
    after.load_state_dict(before.state_dict())
    for step in range(3, 6):
        gradients(whole, step)
        straight.step(0.01)
        gradients(second, step)
        after.step(0.01)
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))
