"""`imtl-g`: the combination with the same projection onto every task's gradient."""

from __future__ import annotations

from collections.abc import Sequence

from torchjd.aggregation import IMTLGWeighting

from hft_plugins.combiners.gradient_aggregation.gradients import Options as Options
from hft_plugins.combiners.gradient_aggregation.gramian_combiner import TorchJD


def build(options: Options, *, tasks: Sequence[str]) -> TorchJD:
    """Combine by d = Σ_t w_t G_t with Σ_t w_t = 1 and ⟨d, G_t⟩ / ‖G_t‖ equal for all t.

    Source: Liu et al. 2021 (impartial multi-task learning, gradient balance), ICLR; where the gradients are linearly
    dependent, its generalization in arXiv:2406.16232.
    """
    return TorchJD(tuple(tasks), at=options.at, weighting=IMTLGWeighting())
