"""`mgda`: the shortest convex combination of the gradients."""

from __future__ import annotations

from collections.abc import Sequence

from torchjd.aggregation import MGDAWeighting

from hft_plugins.combiners.gradient_aggregation.gradients import Options as Options
from hft_plugins.combiners.gradient_aggregation.gramian import TorchJD


def build(options: Options, *, tasks: Sequence[str]) -> TorchJD:
    """The point of least norm in the convex hull of the gradients, by Frank-Wolfe. No loss rises along it, and it is
    zero where no direction lowers all of them; so also when one task's gradient is zero.

    Source: Désidéri 2012; Sener and Koltun 2018, arXiv:1810.04650, algorithm 2.
    """
    return TorchJD(tuple(tasks), at=options.at, weighting=MGDAWeighting())
