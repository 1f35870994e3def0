"""`l2-sp`: all of the trunk trains, drawn back towards the weights that it started from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from hft_core import options
from hft_core.backbone import Backbone
from hft_core.strategy import Strategy


class Options(options.Options):
    """How strongly the trunk is drawn back."""

    alpha: float = Field(default=0.01, gt=0, description="strength of the pull: alpha/2·‖w − w⁰‖² is added to the loss")


class L2SP(Strategy):
    """alpha/2·‖w − w⁰‖² over the trunk's weights w is added to the loss, w⁰ their values before the stage (Li et al.
    2018, arXiv:1802.01483).

    Weight decay draws the same weights towards 0: a stage with this strategy is best given `weight_decay: 0`.
    """

    divisible = False

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self._start: dict[str, Tensor] = {}

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        super().apply(backbone, tasks)
        self._start = {name: p.detach().clone() for name, p in backbone.trunk.named_parameters()}

    def begin(self, backbone: Backbone, steps: int) -> None:
        """The trunk may have been moved to the device that it trains on since `apply`."""
        for name, parameter in backbone.trunk.named_parameters():
            self._start[name] = self._start[name].to(parameter.device)

    def penalty(self, backbone: Backbone) -> Tensor | None:
        distances = [(p - self._start[name]).square().sum() for name, p in backbone.trunk.named_parameters()]
        return self.alpha / 2 * torch.stack(distances).sum()

    def state(self) -> dict[str, Tensor]:
        return dict(self._start)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for name, start in self._start.items():
            start.copy_(state[name])


def build(options: Options) -> L2SP:
    return L2SP(options.alpha)
