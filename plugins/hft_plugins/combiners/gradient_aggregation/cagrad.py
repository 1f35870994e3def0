"""`cagrad`: the direction near the mean gradient that lowers the worst task's loss the most."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torchjd.aggregation import CAGradWeighting

from hft_plugins.combiners.gradient_aggregation import gradients
from hft_plugins.combiners.gradient_aggregation.gramian import TorchJD


class Options(gradients.Options):
    """Where the gradients are taken, and how far from their mean the direction may lie."""

    c: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="the distance from the mean gradient, as a share of its norm; 0 is the mean itself",
    )


def build(options: Options, *, tasks: Sequence[str]) -> TorchJD:
    """Within `c` times its norm of the mean gradient, the direction with the largest smallest product with a gradient.

    One task alone gets 1 + c times its gradient.

    Source: Liu et al. 2021 (conflict-averse gradient descent), arXiv:2110.14048, algorithm 1.
    """
    return TorchJD(tuple(tasks), at=options.at, weighting=CAGradWeighting(c=options.c))
