"""`my-plugin`: each loss divided by its running mean.

Put your own method here. `hft_core.combiner.Combiner` shows all that a combiner can do; one that looks at each task's
gradient sets `per_task_gradients` and overrides `weigh`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from hft_core import options
from hft_core.combiner import Combiner


class Options(options.Options):
    """What a recipe may say about it."""

    momentum: float = Field(default=0.9, ge=0, lt=1, description="how much of the running mean a step keeps")


class MyPluginCombiner(Combiner):
    """Σ_t loss_t / mean_t; the mean is a buffer, so that it is saved and resumed with the run."""

    means: Tensor
    """`[tasks]`"""

    def __init__(self, tasks: tuple[str, ...], momentum: float) -> None:
        super().__init__(tasks)
        self.momentum = momentum
        self.register_buffer("means", torch.ones(len(tasks)))

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        """The scalar to minimize, of the losses `[t]` of the tasks that are present in the step."""
        return (losses / self.means[present].clamp(min=1e-3)).sum()

    @torch.no_grad()
    def step_finished(self, losses: Tensor, present: Tensor) -> None:
        """Follow the losses; a task that is absent keeps its mean."""
        self.means[present] = self.momentum * self.means[present] + (1 - self.momentum) * losses


def build(options: Options, *, tasks: Sequence[str]) -> MyPluginCombiner:
    """Called once a stage, with the stage's tasks."""
    return MyPluginCombiner(tuple(tasks), options.momentum)
