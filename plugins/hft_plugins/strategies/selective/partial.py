"""`partial`: train the top layers of the trunk and the modules after them."""

from __future__ import annotations

from pydantic import Field

from hft_core import options
from hft_core.backbone import Backbone
from hft_core.errors import PluginError
from hft_core.strategy import Strategy
from hft_plugins.strategies.selective.layer_depth import depths


class Options(options.Options):
    """Options of `partial`."""

    layers: int = Field(ge=1, description="number of top layers that train")


class Partial(Strategy):
    """Train the top layers; the embeddings and the lower layers are frozen."""

    def __init__(self, layers: int) -> None:
        self.layers = layers

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        """Freeze the lower layers. Raises `PluginError` when the trunk has fewer layers."""
        by_depth = depths(backbone)
        if self.layers > len(by_depth.layers):
            raise PluginError(f"strategy 'partial': layers is {self.layers}, but the trunk has {len(by_depth.layers)}")
        backbone.trunk.requires_grad_(False)
        for parameters in (*by_depth.layers[-self.layers :], by_depth.above):
            for parameter in parameters:
                parameter.requires_grad_(True)


def build(options: Options) -> Partial:
    return Partial(options.layers)
