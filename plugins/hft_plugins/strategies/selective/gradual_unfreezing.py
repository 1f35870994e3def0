"""`gradual-unfreezing`: train the top layer first, and unfreeze one lower layer at a time."""

from __future__ import annotations

from pydantic import Field

from hft_core import options
from hft_core.backbone import Backbone
from hft_core.strategy import Strategy
from hft_plugins.strategies.selective.layer_depth import depths


class Options(options.Options):
    """Options of `gradual-unfreezing`: when the next layer is unfrozen."""

    steps: int | None = Field(default=None, ge=1, description="steps between unfreezing two layers; overrides share")
    share: float = Field(
        default=0.5, ge=0, le=1, description="share of the stage after which all layers and the embeddings train"
    )


class GradualUnfreezing(Strategy):
    """Unfreeze the trunk from the top (Howard and Ruder 2018, arXiv:1801.06146).

    The topmost layer and what follows it train from the first step; then each lower layer is unfrozen, and at last the
    embeddings. Steps in which the trunk is not updated do not count.
    """

    def __init__(self, steps: int | None, share: float) -> None:
        self.steps = steps
        self.share = share
        self._total = 0

    def begin(self, backbone: Backbone, steps: int) -> None:
        self._total = steps

    def step_started(self, backbone: Backbone, step: int) -> None:
        found = depths(backbone)
        for order, part in enumerate([*reversed(found.layers), found.below]):
            trains = step >= self.joins_at(order, len(found.layers))
            for parameter in part:
                parameter.requires_grad_(trains)

    def joins_at(self, order: int, layers: int) -> int:
        """Return the step that unfreezes a part: `order` 0 is the top one of `layers`, `layers` the embeddings."""
        if self.steps is not None:
            return order * self.steps
        return round(order * self.share * self._total / layers)


def build(options: Options) -> GradualUnfreezing:
    return GradualUnfreezing(options.steps, options.share)
