"""`my-plugin`: the biases of the trunk train, and the scales of its norms.

Put your own method here. `hft_core.strategy.Strategy` shows all that a strategy can do, each with a default that does
the plain thing: private parts for each task, a changed forward pass, a penalty, state, adapters.
"""

from __future__ import annotations

from pydantic import Field

from hft_core import options
from hft_core.backbone import Backbone
from hft_core.errors import PluginError
from hft_core.strategy import Strategy


class Options(options.Options):
    """What a recipe may say about it."""

    norms: bool = Field(default=True, description="the scales of the norms train as well")


class MyPluginStrategy(Strategy):
    """Trains what has one dimension, and leaves every matrix as it is."""

    learning_rate = 1e-3

    def __init__(self, norms: bool) -> None:
        self.norms = norms

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        """Say what trains. Raises `PluginError` when the trunk has nothing of the kind."""
        for name, parameter in backbone.trunk.named_parameters():
            is_bias = name.endswith("bias")
            is_scale = parameter.ndim == 1 and not is_bias
            parameter.requires_grad_(is_bias or (self.norms and is_scale))
        if not any(parameter.requires_grad for parameter in backbone.trunk.parameters()):
            raise PluginError(
                f"strategy 'my-plugin': {type(backbone.trunk).__name__} has no biases: "
                "expected norms=true, or a trunk with some"
            )


def build(options: Options) -> MyPluginStrategy:
    """Called once a stage."""
    return MyPluginStrategy(options.norms)
