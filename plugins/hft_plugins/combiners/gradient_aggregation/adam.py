"""Adam for one number per task, for combiners that train their weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class Adam(nn.Module):
    """Run Adam (Kingma and Ba 2015, arXiv:1412.6980) with its state in buffers and a step count per task.

    A task that is absent from a step is unchanged. torch's Adam keeps its state outside the module.
    """

    exp_avg: Tensor
    exp_avg_sq: Tensor
    steps: Tensor

    def __init__(self, tasks: int, *, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.lr, self.weight_decay = lr, weight_decay
        for name in ("exp_avg", "exp_avg_sq", "steps"):
            self.register_buffer(name, torch.zeros(tasks))

    @torch.no_grad()
    def step(self, values: Tensor, gradient: Tensor, present: Tensor) -> None:
        """Update `values` `[tasks]` in place at `present` `[t]` by `gradient` `[t]`."""
        gradient = gradient + self.weight_decay * values[present]
        self.steps[present] += 1
        self.exp_avg[present] = torch.lerp(self.exp_avg[present], gradient, 1 - BETA1)
        self.exp_avg_sq[present] = torch.lerp(self.exp_avg_sq[present], gradient**2, 1 - BETA2)
        mean = self.exp_avg[present] / (1 - BETA1 ** self.steps[present])
        square = self.exp_avg_sq[present] / (1 - BETA2 ** self.steps[present])
        values[present] -= self.lr * mean / (square.sqrt() + EPS)
