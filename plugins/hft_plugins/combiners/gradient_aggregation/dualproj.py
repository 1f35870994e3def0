"""`dualproj`: project the mean gradient onto the directions that conflict with no task."""

from __future__ import annotations

from collections.abc import Sequence

from torchjd.aggregation import DualProjWeighting

from hft_plugins.combiners.gradient_aggregation.gradients import Options as Options
from hft_plugins.combiners.gradient_aggregation.gramian_combiner import TorchJD


def build(options: Options, *, tasks: Sequence[str]) -> TorchJD:
    """Combine by argmin_d ‖d − G_0‖² subject to ⟨G_t, d⟩ ≥ 0 for all t, where G_0 is the mean gradient.

    Source: Lopez-Paz and Ranzato 2017 (gradient episodic memory), arXiv:1706.08840, equation 11.
    """
    return TorchJD(tuple(tasks), at=options.at, weighting=DualProjWeighting())
