"""`layerwise-decay`: train all of the trunk, lower layers at lower learning rates."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import nn

from hft_core import options
from hft_core.backbone import Backbone
from hft_core.strategy import Strategy
from hft_plugins.strategies.selective.layer_depth import depths


class Options(options.Options):
    """Options of `layerwise-decay`."""

    decay: float = Field(
        default=0.9, gt=0, le=1, description="factor on the learning rate from each layer to the one below"
    )


class LayerwiseDecay(Strategy):
    """Apply layer-wise learning-rate decay (ELECTRA, Clark et al. 2020, arXiv:2003.10555).

    With n layers, the factor is 1 for what follows the layers, `decay` for the topmost layer, `decay**n` for the lowest
    one and `decay**(n + 1)` for the embeddings.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def rate_factors(self, backbone: Backbone) -> Mapping[nn.Parameter, float]:
        by_depth = depths(backbone)
        falling = [*reversed(by_depth.layers), by_depth.below]
        return {p: self.decay**steps for steps, part in enumerate(falling, start=1) for p in part}


def build(options: Options) -> LayerwiseDecay:
    return LayerwiseDecay(options.decay)
