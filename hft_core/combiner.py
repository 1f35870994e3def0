"""The contract of the combiner seam: the losses of a step's tasks to one backward pass."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

At = Literal["shared", "representation"]


class Combiner(nn.Module):
    """Adds the losses up: the identity among combiners, and the base of all others.

    A combiner of losses overrides `forward`; a combiner of gradients sets `per_task_gradients` and overrides `weigh`.
    Its parameters are trained (without weight decay) and saved with its buffers, so that all of its state is in one of
    both. The tasks of a step are always given in the order of the stage; a task that is absent from the step is left
    out. Random numbers come from torch's global generator, which the core seeds by (seed, stage, step) before `forward`
    and `weigh`, so that they are the same on every process.
    """

    per_task_gradients = False
    """`weigh` is called with one gradient a task; `forward` is not."""
    linear = True
    """`forward` is linear in the losses, so that each loss's weight does not depend on the step's losses."""
    at: At = "shared"
    """Of combiners of gradients: `shared` takes those of all shared parameters that train; `representation` those of
    the trunk's last hidden states, so that there is one backward pass through the trunk however many tasks there are:
    summed over a task's tokens, or, where all tasks have the same rows and `by_products` is true, others with the
    products of the exact ones."""
    by_products = False
    """Of combiners of gradients: `weigh` gives one factor a task, and goes by the gradients' products with one another
    (their Gramian) and no more of them: other gradients with the same products have the same factors."""
    weighs_heads = False
    """Of combiners of gradients: each task's weight also multiplies the gradient of what only this task trains."""
    losses_after_step = False
    """`step_finished` is given the losses of the step's rows computed again after the optimizer moved."""
    dev_every = 0
    """`dev_measured` is called every so many steps; 0: never."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.tasks = tasks

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        """The scalar to minimise.

        `losses` `[t]`: the mean loss of each present task over the whole step. `present` `[t]`: their indices in
        `self.tasks`. The weight of a loss is the derivative of the result with respect to it.
        """
        return losses.sum()

    def weigh(self, gradients: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """The factors on the tasks' gradients `[t, p]`, whose weighted sum is the combined gradient: `[t]`, or `[t, p]`
        where a task's factor differs from component to component. `losses` `[t]`: the step's mean losses."""
        raise NotImplementedError(f"{type(self).__name__} does not combine gradients")

    def step_finished(self, losses: Tensor, present: Tensor) -> None:
        """Called after the optimizer moved, with the step's losses: for combiners that follow the losses over time."""

    def epoch_finished(self) -> None:
        """Called after the last step of each epoch of the stage."""

    def dev_measured(self, losses: Tensor) -> None:
        """Called every `dev_every` steps with the mean loss `[tasks]` of a small sample of each task's dev rows, the
        next rows each time; NaN for a task without dev rows."""


def weights_of(combiner: Combiner, losses: Tensor, present: Tensor) -> Tensor:
    """Each loss's weight `[t]`: the derivative of `combiner(losses)`; the combiner's own gradients are not touched."""
    losses = losses.detach().requires_grad_()
    with torch.enable_grad():
        (weights,) = torch.autograd.grad(combiner(losses, present), losses)
    return weights
