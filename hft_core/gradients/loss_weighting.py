"""Fill gradients by weighting the tasks' losses (e.g. uncertainty weighting, Kendall et al. 2018, arXiv:1705.07115)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hft_core.batching.batch import Batch
from hft_core.combiner import weights_of
from hft_core.gradients.step_losses import Combined, StepLosses


@dataclass(frozen=True)
class LossWeighting:
    """Makes one backward pass per batch, of the weighted sum of the losses."""

    losses: StepLosses

    def fill(self, batches: Sequence[Batch]) -> Combined:
        """Fill `.grad` of all trained parameters, the combiner's included."""
        losses, model, group = self.losses, self.losses.model, self.losses.machine.group
        weights = self._weights_before(len(batches))
        for batch in batches:
            hidden = losses.forward.hidden(batch)
            batch_losses = losses.of_batch(batch, hidden)
            if weights is None:
                weights = self._weights(batch_losses)
            self._backward((weights * batch_losses).sum(), hidden)
            losses.total += batch_losses.detach()
        assert weights is not None
        combined = losses.combined(weights.detach())
        group.sum_gradients([*model.trunk_parameters(), *model.head_parameters(losses.tasks)])
        self._fill_combiner(combined.losses)
        return combined

    def _weights_before(self, batches: int) -> Tensor | None:
        """Return the weights that are known before the first backward pass; None where they come from its losses.

        A combiner that is not linear in the losses needs those of the whole step, of all batches and processes.
        """
        if self.losses.combiner.linear:
            return self._weights(torch.ones_like(self.losses.total))
        if batches > 1 or self.losses.machine.group.world_size > 1:
            return self._weights(self.losses.no_grad_pass())
        return None

    def _weights(self, losses: Tensor) -> Tensor:
        with self.losses.combiner_draws():
            weights = weights_of(self.losses.combiner, losses, self.losses.present)
            return self.losses.machine.group.broadcast(weights)

    def _backward(self, loss: Tensor, hidden: Tensor) -> None:
        """Run the backward pass of a batch; with FSDP always through the trunk, so that all processes make equally
        many."""
        roots, gradients = ([loss], [torch.ones_like(loss)]) if loss.requires_grad else ([], [])
        if self.losses.machine.sharded and hidden.requires_grad:
            roots, gradients = [*roots, hidden], [*gradients, torch.zeros_like(hidden)]
        if roots:
            torch.autograd.backward(roots, gradients)

    def _fill_combiner(self, losses: Tensor) -> None:
        """Fill the gradients of the combiner's own parameters."""
        combiner = self.losses.combiner
        parameters = [parameter for parameter in combiner.parameters() if parameter.requires_grad]
        if parameters:
            with self.losses.combiner_draws():
                objective = combiner(losses, self.losses.present)
            gradients = torch.autograd.grad(objective, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = None if gradient is None else self.losses.machine.group.broadcast(gradient)
