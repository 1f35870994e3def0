"""`l2-sp`: train all of the trunk with an L2 penalty on the distance from its initial weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from hft_core import options
from hft_core.backbone import Backbone
from hft_core.strategy import Strategy


class Options(options.Options):
    """Options of `l2-sp`."""

    alpha: float = Field(default=0.01, gt=0, description="strength of the penalty alpha/2·‖w − w⁰‖²")


class L2SP(Strategy):
    """Add alpha/2·‖w − w⁰‖² over the trunk's weights w to the loss, with w⁰ their values before the stage.

    Weight decay pulls the same weights towards 0: set `weight_decay: 0` in a stage with this strategy.

    Source: Li et al. 2018, arXiv:1802.01483.
    """

    divisible = False

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self._start: dict[str, Tensor] = {}

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        super().apply(backbone, tasks)
        self._start = {name: p.detach().clone() for name, p in backbone.trunk.named_parameters()}

    def begin(self, backbone: Backbone, steps: int) -> None:
        """Move the initial weights to the trunk's device, which may have changed since `apply`."""
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
