"""The contract of the combiner seam: from the losses of a step's tasks to one update."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

At = Literal["shared", "representation"]


class Combiner(nn.Module):
    """Add the losses, Σ_t loss_t; the base class of all combiners.

    A combiner of losses overrides `forward`; a combiner of gradients sets `per_task_gradients` and overrides `weigh`.
    All state is in parameters, which are trained (without weight decay), and buffers; both are saved. The tasks of a
    step are given in the order of the stage, without those absent from the step. The core seeds torch's global
    generator by (seed, stage, step) before `forward` and `weigh`, so that random numbers are the same in every process.
    """

    per_task_gradients = False
    """`weigh` is called with one gradient per task, and `forward` is not called."""
    linear = True
    """`forward` is linear in the losses: the weights do not depend on the losses of the step."""
    at: At = "shared"
    """Which gradients a combiner of gradients receives. `shared`: G_t = ∂L_t/∂θ for all shared trainable parameters θ.
    `representation`: G_t = ∂L_t/∂h for the trunk's last hidden states h, with one backward pass through the trunk for
    all tasks, summed over the tokens of a task; where all tasks have the same rows and `by_products` is true, gradients
    with the Gramian of the exact ones instead."""
    by_products = False
    """Of combiners of gradients: `weigh` returns one factor per task, a function of the Gramian G Gᵀ of the gradients
    alone."""
    weighs_heads = False
    """Of combiners of gradients: a task's weight also multiplies the gradients of its own (not shared) parameters."""
    losses_after_step = False
    """`step_finished` receives the losses of the step's rows, recomputed after the optimizer step."""
    dev_every = 0
    """Number of steps between two calls of `dev_measured`; 0: never."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.tasks = tasks

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        """Compute the scalar to minimize.

        `losses` `[t]`: the mean loss of each present task over the whole step. `present` `[t]`: their indices in
        `self.tasks`. The reported weight of a loss is the derivative of the result with respect to it.
        """
        return losses.sum()

    def weigh(self, gradients: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        """Compute the factors w `[t]`, or `[t, p]` for factors per component, of the combined gradient Σ_t w_t G_t.

        `gradients` `[t, p]`: one gradient per present task; `losses` `[t]`: the mean losses of the step; `present`
        `[t]`: the tasks' indices in `self.tasks`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not combine gradients")

    def step_finished(self, losses: Tensor, present: Tensor) -> None:
        """Update state from the losses `[t]` of the step; called after the optimizer step."""

    def epoch_finished(self) -> None:
        """Update state after the last step of each epoch of the stage."""

    def dev_measured(self, losses: Tensor) -> None:
        """Update state from the mean losses `[tasks]` on a small sample of each task's dev rows, the next rows each
        time; NaN for a task without dev rows. Called every `dev_every` steps."""


def weights_of(combiner: Combiner, losses: Tensor, present: Tensor) -> Tensor:
    """Compute the weight of each loss `[t]`, the derivative of `combiner(losses)`, without changing the combiner's
    gradients."""
    losses = losses.detach().requires_grad_()
    with torch.enable_grad():
        (weights,) = torch.autograd.grad(combiner(losses, present), losses)
    return weights
