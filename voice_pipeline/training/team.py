"""Several processes that train one model: each takes a part of every batch, all make the same step.

Started by `torchrun` (which sets RANK, WORLD_SIZE and where to meet), gloo between CPUs, NCCL between GPUs. Losses and
gradients are those of the whole batch, and so are the statistics of batch normalisation, so two processes learn what
one would, up to rounding (and to dropout, which every process draws for itself).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce  # imported after a meeting began, it would keep it for ever


@dataclass
class Team:
    """This process's place among `size` processes; `rank` 0 leads: it alone judges and writes. One that is `idle` goes
    along with a batch that has nothing for it.
    """

    rank: int = 0
    size: int = 1
    idle: bool = False

    @classmethod
    def join(cls) -> Team:
        """The team that `torchrun` started this process for; a team of one where it did not."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not distributed.is_initialized():
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # each process a GPU of its own
            distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        return cls(distributed.get_rank(), size)

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def leave(self) -> None:
        """End the meeting and gloo's threads: one that outlives Python's objects aborts the process at its exit."""
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    def prepare(self, model: nn.Module) -> None:
        """Replace batch normalisation by one over all processes, in place; parameters keep their names."""
        if self.size == 1:
            return
        for module in model.modules():
            for name, child in module.named_children():
                if type(child) is nn.BatchNorm2d:
                    setattr(module, name, SharedBatchNorm.over(child, self))

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Every process's gradients become their sum."""
        if self.size == 1:
            return
        owned = [p for p in parameters if p.requires_grad]
        flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in owned])
        distributed.all_reduce(flat)
        for parameter, summed in zip(owned, flat.split([p.numel() for p in owned]), strict=True):
            parameter.grad = summed.view_as(parameter)

    def sum(self, value: float) -> float:
        """The sum of all processes' values."""
        if self.size == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64)
        distributed.all_reduce(total)
        return float(total)

    def from_leader(self, value: Any) -> Any:
        """What the leader has, in every process; the others' `value` is ignored."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation by mean and variance over the examples of all processes (PyTorch's own needs a GPU)."""

    team: Team

    @classmethod
    def over(cls, single: nn.BatchNorm2d, team: Team) -> SharedBatchNorm:
        """One with the parameters and running statistics of `single`."""
        shared = cls(single.num_features, single.eps, single.momentum)
        shared.team = team
        shared.load_state_dict(single.state_dict())
        return shared.train(single.training)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, 1, S)."""
        if not self.training:
            return super().forward(x)
        wide = x.float()
        counts = 0.0 if self.team.idle else 1.0
        count = torch.tensor([counts * wide.numel() / wide.shape[1]], device=x.device)
        distributed.all_reduce(count)
        mean = all_reduce(counts * wide.sum((0, 2, 3))) / count
        centred = wide - mean[None, :, None, None]
        variance = all_reduce(counts * centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean, momentum)  # type: ignore[union-attr]
            self.running_var.lerp_(variance * count / (count - 1), momentum)  # type: ignore[union-attr]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[None, :, None, None] + self.bias[None, :, None, None]).to(x.dtype)
