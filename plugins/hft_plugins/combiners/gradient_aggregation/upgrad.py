"""`upgrad`: each gradient projected so that it conflicts with none, then averaged."""

from __future__ import annotations

from collections.abc import Sequence

from torchjd.aggregation import UPGradWeighting

from hft_plugins.combiners.gradient_aggregation.gradients import Options as Options
from hft_plugins.combiners.gradient_aggregation.gramian import TorchJD


def build(options: Options, *, tasks: Sequence[str]) -> TorchJD:
    """The mean of the gradients' projections onto the cone of directions that conflict with none of them.

    Source: Quinton and Rey 2024, arXiv:2406.16232.
    """
    return TorchJD(tuple(tasks), at=options.at, weighting=UPGradWeighting())
