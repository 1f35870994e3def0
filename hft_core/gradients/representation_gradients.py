"""Fill gradients by combining the tasks' gradients of the representation, the trunk's last hidden states (as MGDA-UB,
Sener and Koltun 2018, arXiv:1810.04650)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hft_core.batching.batch import Batch
from hft_core.gradients.gradient_comparison import Comparison, HiddenGradient, same_rows, weighted_sum
from hft_core.gradients.hidden_gradients import HeadGradients, hidden_gradients
from hft_core.gradients.step_losses import Combined, StepLosses, projected_weights
from hft_core.runtime.random_state import random_state_kept


@dataclass(frozen=True)
class RepresentationGradients:
    """Makes one backward pass per batch through the trunk, of the sum of the tasks' factors times their gradients.

    The factors depend on the gradients of the whole step: for a step of several batches, these are computed in a pass
    before it, with the same dropout.
    """

    losses: StepLosses

    def fill(self, batches: Sequence[Batch]) -> Combined:
        """Fill `.grad` of all trained parameters of the model."""
        losses, model, group = self.losses, self.losses.model, self.losses.machine.group
        heads = HeadGradients.of(losses)
        comparison = self._comparison(batches)
        several = group.all_reduce_max(len(batches)) > 1
        passes: Iterable[tuple[Tensor, list[HiddenGradient]]]
        if several:
            self._compare_before(batches, comparison)
            passes = (self._pass(batch, heads) for batch in batches)  # one at a time in memory
        else:
            passes = [self._pass(batch, heads) for batch in batches]
            for hidden, gradients in passes:
                comparison.add(hidden, gradients)
        compared = comparison.gradients()
        factors = losses.factors(compared)
        if several:
            losses.total.zero_()  # the passes add up the losses again
        for hidden, gradients in passes:
            if hidden.requires_grad:
                torch.autograd.backward(hidden, weighted_sum(hidden, gradients, factors))
        weights = projected_weights(factors, compared)
        for index, tied in enumerate(heads.tied):
            tied.add_to_grad(weights[index])
        heads.add_own_to_grad(weights, weighted=losses.combiner.weighs_heads)
        group.sum_gradients([*model.trunk_parameters(), *model.head_parameters(losses.tasks)])
        return losses.combined(weights)

    def _comparison(self, batches: Sequence[Batch]) -> Comparison:
        """Compare gradients exactly where all tasks have the same rows in all processes, and else by their sums."""
        losses = self.losses
        exact = losses.combiner.by_products and same_rows(batches, losses.tasks)
        everywhere = not losses.machine.group.any(not exact)
        return Comparison(len(losses.tasks), losses.model.backbone.hidden_size, losses.machine, exact=everywhere)

    def _compare_before(self, batches: Sequence[Batch], comparison: Comparison) -> None:
        """Fill `comparison` from a pass without gradients of the trunk, with the dropout of the passes to come."""
        with random_state_kept(self.losses.machine.device):
            for batch in batches:
                with torch.no_grad():
                    hidden = self.losses.forward.hidden(batch)
                comparison.add(hidden, hidden_gradients(self.losses, batch, hidden))

    def _pass(self, batch: Batch, heads: HeadGradients) -> tuple[Tensor, list[HiddenGradient]]:
        """Return the hidden states of a batch, and the gradients of the losses with respect to them."""
        hidden = self.losses.forward.hidden(batch)
        return hidden, hidden_gradients(self.losses, batch, hidden, heads)
