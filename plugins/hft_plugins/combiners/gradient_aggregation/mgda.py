"""`mgda`: the convex combination of the gradients with the smallest norm."""

from __future__ import annotations

from collections.abc import Sequence

from torchjd.aggregation import MGDAWeighting

from hft_plugins.combiners.gradient_aggregation.gradients import Options as Options
from hft_plugins.combiners.gradient_aggregation.gramian_combiner import TorchJD


def build(options: Options, *, tasks: Sequence[str]) -> TorchJD:
    """Combine by argmin ‖Σ_t w_t G_t‖² over w ≥ 0, Σ_t w_t = 1, by Frank-Wolfe.

    No loss increases along it. It is zero where no direction decreases all losses, such as when a gradient is zero.

    Source: Désidéri 2012; Sener and Koltun 2018, arXiv:1810.04650, algorithm 2.
    """
    return TorchJD(tuple(tasks), at=options.at, weighting=MGDAWeighting())
