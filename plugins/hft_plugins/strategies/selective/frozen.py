"""`frozen`: the trunk stays as it is and extracts features; only heads train."""

from __future__ import annotations

from hft_core.backbone import Backbone
from hft_core.options import Options as Options  # `frozen` has no options of its own
from hft_core.strategy import Strategy


class Frozen(Strategy):
    """Linear probing: no trunk parameter trains."""

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        backbone.trunk.requires_grad_(False)


def build(options: Options) -> Frozen:
    return Frozen()
