"""Compute the gradients of the tasks' losses with respect to the trunk's last hidden states."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hft_core.batching.batch import Batch
from hft_core.gradients.gradient_comparison import HiddenGradient
from hft_core.gradients.step_losses import StepLosses
from hft_core.gradients.task_gradients import TaskGradients, tied_parameters


@dataclass(frozen=True)
class HeadGradients:
    """The gradients of the heads' parameters, one of each per task of the step."""

    own: list[TaskGradients]
    """Of parameters that only the task trains."""
    tied: list[TaskGradients]
    """Of parameters that its head shares with the trunk."""

    @classmethod
    def of(cls, losses: StepLosses) -> HeadGradients:
        """Begin with no gradients, for the tasks of a step."""
        return cls(
            own=[TaskGradients(losses.model.task_parameters(task)) for task in losses.tasks],
            tied=[TaskGradients(tied_parameters(losses.model, task)) for task in losses.tasks],
        )

    def add_own_to_grad(self, weights: Tensor, *, weighted: bool) -> None:
        """Add the gradients of the tasks' own parameters to `.grad`, with the tasks' `weights` `[t]` if `weighted`."""
        for index, gradients in enumerate(self.own):
            gradients.add_to_grad(weights[index] if weighted else None)


def hidden_gradients(
    losses: StepLosses, batch: Batch, hidden: Tensor, heads: HeadGradients | None = None
) -> list[HiddenGradient]:
    """Return the gradients of the tasks' mean losses with respect to the hidden states of their rows.

    `hidden`: `[batch, seq, hidden]`. The losses are added to `losses.total`; the gradients of the heads' parameters are
    added to `heads`, if given.
    """
    segments = [
        (segment, replace(features, hidden=features.hidden.detach().requires_grad_()))
        for segment, features in losses.model.segments(batch, hidden)
    ]
    sums = losses.forward.sums_of(segments)
    result = []
    for index, task in enumerate(losses.tasks):
        if task not in sums:
            continue
        mean = sums[task] / losses.counts[task]
        losses.total[index] += mean.detach()
        leaves = [(segment.rows, features.hidden) for segment, features in segments if segment.task == task]
        own = [] if heads is None else heads.own[index].parameters
        tied = [] if heads is None else heads.tied[index].parameters
        gradients = torch.autograd.grad(mean, [*(leaf for _, leaf in leaves), *own, *tied], allow_unused=True)
        for (rows, _), gradient in zip(leaves, gradients, strict=False):
            if gradient is not None:
                result.append(HiddenGradient(index, rows, gradient))
        if heads is not None:
            of_heads = gradients[len(leaves) :]
            heads.own[index].add(of_heads[: len(own)])
            heads.tied[index].add(of_heads[len(own) :])
    return result
