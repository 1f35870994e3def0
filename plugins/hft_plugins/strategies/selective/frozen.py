"""`frozen`: freeze the trunk; only heads train."""

from __future__ import annotations

from hft_core.backbone import Backbone
from hft_core.options import Options as Options  # `frozen` has no options of its own
from hft_core.strategy import Strategy


class Frozen(Strategy):
    """Freeze every parameter of the trunk (linear probing)."""

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        backbone.trunk.requires_grad_(False)


def build(options: Options) -> Frozen:
    return Frozen()
