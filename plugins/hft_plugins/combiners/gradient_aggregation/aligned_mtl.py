"""`aligned-mtl`: scale the principal components of the gradients to one size, and average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torchjd.aggregation import AlignedMTLWeighting

from hft_plugins.combiners.gradient_aggregation import gradients
from hft_plugins.combiners.gradient_aggregation.gramian_combiner import TorchJD


class Options(gradients.Options):
    """Where the gradients are taken, and the common scale."""

    scale_mode: Literal["min", "median", "rmse"] = Field(
        default="min", description="the scale all components get: the smallest, the median, or the root mean square"
    )


def build(options: Options, *, tasks: Sequence[str]) -> TorchJD:
    """Combine by (1/T) Σ_t Ĝ_t, Ĝ = s U Vᵀ for gradients G = U S Vᵀ `[t, p]`: all nonzero singular values become s.

    Source: Senushkin et al. 2023, arXiv:2305.19000, algorithm 1.
    """
    return TorchJD(tuple(tasks), at=options.at, weighting=AlignedMTLWeighting(scale_mode=options.scale_mode))
