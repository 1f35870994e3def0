"""`pcgrad`: each task's gradient projected away from those it conflicts with (gradient surgery)."""

from __future__ import annotations

from collections.abc import Sequence

from torchjd.aggregation import PCGradWeighting

from hft_plugins.combiners.gradient_aggregation.gradients import Options as Options
from hft_plugins.combiners.gradient_aggregation.gramian import TorchJD


def build(options: Options, *, tasks: Sequence[str]) -> TorchJD:
    """For each task, its gradient minus its components along the gradients it has a negative product with, taken in a
    random order; the results are added up.

    Source: Yu et al. 2020, arXiv:2001.06782, algorithm 1.
    """
    return TorchJD(tuple(tasks), at=options.at, weighting=PCGradWeighting())
