"""`config`: the direction with the same cosine similarity to every task's gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hft_plugins.combiners.gradient_aggregation.gradients import Options as Options
from hft_plugins.combiners.gradient_aggregation.gramian_combiner import GramianCombiner


class ConFIG(GramianCombiner):
    """Combine by (Σ_t ⟨G_t, d⟩) d / ‖d‖² with d = U⁺ 1, where the rows of U `[t, p]` are the unit gradients.

    As torchjd's `ConFIG`. Since U⁺ = Uᵀ (U Uᵀ)⁺, d is in the span of the gradients, and its weights follow from the
    matrix of their cosines, U Uᵀ, alone.

    Source: Liu et al. 2024, arXiv:2408.11104, equation 2.
    """

    def solve(self, gramian: Tensor, scale: Tensor, present: Tensor) -> Tensor:
        precision = torch.finfo(gramian.dtype).eps
        norms = gramian.diagonal().sqrt()
        inverse = torch.where(norms > 0, 1 / norms, 0.0)
        cosines = inverse.unsqueeze(1) * gramian * inverse
        pseudoinverse: Tensor = torch.linalg.pinv(cosines, hermitian=True, rtol=len(norms) * precision)
        units = pseudoinverse.sum(dim=1)  # d = Uᵀ·units
        squared_length = units @ cosines @ units
        # Zero where the unit gradients cancel out: no direction has a positive cosine with all of them.
        if bool(squared_length <= precision):
            return torch.zeros_like(norms)
        length = norms @ cosines @ units / squared_length  # of the result, in lengths of d
        return length * units * inverse


def build(options: Options, *, tasks: Sequence[str]) -> ConFIG:
    return ConFIG(tuple(tasks), at=options.at)
