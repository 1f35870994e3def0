"""`pcgrad`: project each gradient onto the normal plane of those it conflicts with (gradient surgery)."""

from __future__ import annotations

from collections.abc import Sequence

from torchjd.aggregation import PCGradWeighting

from hft_plugins.combiners.gradient_aggregation.gradients import Options as Options
from hft_plugins.combiners.gradient_aggregation.gramian_combiner import TorchJD


def build(options: Options, *, tasks: Sequence[str]) -> TorchJD:
    """Combine by Σ_i G'_i, where G'_i ← G'_i − min(0, ⟨G'_i, G_j⟩) G_j / ‖G_j‖² for all j ≠ i in random order.

    Source: Yu et al. 2020, arXiv:2001.06782, algorithm 1.
    """
    return TorchJD(tuple(tasks), at=options.at, weighting=PCGradWeighting())
