"""The contract of the combiner seam: the losses of a step's tasks to one backward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Combiner(nn.Module):
    """Adds the losses up: the identity among combiners, and the base of all others.

    A combiner of losses overrides `forward`; a combiner of gradients sets `per_task_gradients` and overrides
    `aggregate`. Its parameters are trained (without weight decay) and saved with its buffers. The tasks of a step are
    always given in the order of the stage; a task that is absent from the step is left out.
    """

    per_task_gradients = False
    """`aggregate` is called with one gradient a task; `forward` is not."""
    linear = True
    """`forward` is linear in the losses, so that each loss's weight does not depend on the step's losses."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.tasks = tasks

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        """The scalar to minimise.

        `losses` `[t]`: the mean loss of each present task over the whole step. `present` `[t]`: their indices in
        `self.tasks`. The weight of a loss is the derivative of the result with respect to it.
        """
        return losses.sum()

    def aggregate(self, gradients: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """One gradient `[p]` from those of the present tasks `[t, p]`, and the weight `[t]` given to each.

        Draws random numbers, if any, from torch's global generator, which the core seeds by (seed, stage, step).
        """
        raise NotImplementedError(f"{type(self).__name__} does not combine gradients")

    def step_finished(self, losses: Tensor, present: Tensor) -> None:
        """Called after the optimizer moved, with the step's losses: for combiners that follow the losses over time."""


def weights_of(combiner: Combiner, losses: Tensor, present: Tensor) -> Tensor:
    """Each loss's weight `[t]`: the derivative of `combiner(losses)`; the combiner's own gradients are not touched."""
    losses = losses.detach().requires_grad_()
    with torch.enable_grad():
        (weights,) = torch.autograd.grad(combiner(losses, present), losses)
    return weights
