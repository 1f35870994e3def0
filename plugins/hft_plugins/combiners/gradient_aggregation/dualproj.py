"""`dualproj`: the mean gradient projected so that it conflicts with none."""

from __future__ import annotations

from collections.abc import Sequence

from torchjd.aggregation import DualProjWeighting

from hft_plugins.combiners.gradient_aggregation.gradients import Options as Options
from hft_plugins.combiners.gradient_aggregation.gramian import TorchJD


def build(options: Options, *, tasks: Sequence[str]) -> TorchJD:
    """The projection of the mean gradient onto the cone of directions that conflict with none of the gradients.

    Source: Lopez-Paz and Ranzato 2017 (gradient episodic memory), arXiv:1706.08840, equation 11.
    """
    return TorchJD(tuple(tasks), at=options.at, weighting=DualProjWeighting())
