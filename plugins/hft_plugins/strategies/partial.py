"""`partial`: the top layers of the trunk train, and what comes after them."""

from __future__ import annotations

from pydantic import Field

from hft_core import options
from hft_core.backbone import Backbone
from hft_core.errors import PluginError
from hft_core.strategy import Strategy


class Options(options.Options):
    """How much of the trunk trains."""

    layers: int = Field(ge=1, description="how many of the topmost layers train")


class Partial(Strategy):
    """The embeddings and the lower layers stand still."""

    def __init__(self, layers: int) -> None:
        self.layers = layers

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        """Raises `PluginError` when the trunk has fewer layers."""
        layers = backbone.layers
        if self.layers > len(layers):
            raise PluginError(f"strategy 'partial': layers is {self.layers}, but the trunk has {len(layers)}")
        backbone.trunk.requires_grad_(False)
        trained = layers[-self.layers :]
        for layer in trained:
            layer.requires_grad_(True)
        seen_layers = False
        for child in backbone.trunk.children():  # what follows the layers, a final norm for instance
            if seen_layers:
                child.requires_grad_(True)
            seen_layers = seen_layers or any(module is trained[-1] for module in child.modules())


def build(options: Options) -> Partial:
    return Partial(options.layers)
