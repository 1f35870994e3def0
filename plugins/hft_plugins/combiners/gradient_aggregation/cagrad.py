"""`cagrad`: maximize the smallest decrease of a loss near the mean gradient."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torchjd.aggregation import CAGradWeighting

from hft_plugins.combiners.gradient_aggregation import gradients
from hft_plugins.combiners.gradient_aggregation.gramian_combiner import TorchJD


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
    """Combine by argmax_d min_t ⟨G_t, d⟩ subject to ‖d − G_0‖ ≤ c ‖G_0‖, where G_0 is the mean gradient.

    A single task gets 1 + c times its gradient.

    Source: Liu et al. 2021 (conflict-averse gradient descent), arXiv:2110.14048, algorithm 1.
    """
    return TorchJD(tuple(tasks), at=options.at, weighting=CAGradWeighting(c=options.c))
