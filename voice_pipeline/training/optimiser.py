"""AdamW (Loshchilov and Hutter, 2019) over whole lists of tensors at once.

`torch.optim` loads the compiler when its first optimiser is made: three seconds of every training run, a tenth of a
quick warm start. This is the same update (`test_optimiser.py` holds it to that).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

BETAS = (0.9, 0.98)
EPSILON = 1e-8


class AdamW:
    """Args:
    parameters: tensors with gradients.
    weight_decay: applied to tensors of two or more dimensions, not to biases and normalisation.

    `steps` counts the updates made.
    """

    def __init__(self, parameters: Sequence[Tensor], weight_decay: float) -> None:
        self._parameters = list(parameters)
        self._weight_decay = weight_decay
        self.steps = 0
        self._mean = [torch.zeros_like(p) for p in self._parameters]
        self._square = [torch.zeros_like(p) for p in self._parameters]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """One update from the gradients, which are then dropped."""
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._parameters]
        self.steps += 1
        torch._foreach_lerp_(self._mean, gradients, 1 - BETAS[0])
        torch._foreach_mul_(self._square, BETAS[1])
        torch._foreach_addcmul_(self._square, gradients, gradients, 1 - BETAS[1])
        decayed = [p for p in self._parameters if p.ndim > 1]
        torch._foreach_mul_(decayed, 1 - learning_rate * self._weight_decay)
        scale = torch._foreach_sqrt(self._square)
        torch._foreach_div_(scale, (1 - BETAS[1] ** self.steps) ** 0.5)
        torch._foreach_add_(scale, EPSILON)
        torch._foreach_addcdiv_(self._parameters, self._mean, scale, -learning_rate / (1 - BETAS[0] ** self.steps))
        for parameter in self._parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs to go on bit for bit, on CPU."""
        copies = {name: [t.cpu().clone() for t in tensors] for name, tensors in self._moments().items()}
        return {"steps": self.steps, **copies}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` stood."""
        self.steps = int(state["steps"])
        for name, tensors in self._moments().items():
            for own, stored in zip(tensors, state[name], strict=True):
                own.copy_(stored)

    def _moments(self) -> dict[str, list[Tensor]]:
        return {"mean": self._mean, "square": self._square}
