"""Group a trunk's parameters by depth: below the layers, in each layer, and above."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from hft_core.backbone import Backbone
from hft_core.errors import ModelError


@dataclass(frozen=True)
class Depths:
    """Every parameter of a trunk once."""

    below: list[nn.Parameter]
    """What comes before the layers: embeddings and their norms."""
    layers: list[list[nn.Parameter]]
    """Those of each layer, from the one next to the embeddings upwards."""
    above: list[nn.Parameter]
    """What follows the last layer: a final norm, for instance."""


def depths(backbone: Backbone) -> Depths:
    """Outside the layers the order of registration tells what comes before them and what follows, but for what is
    called an embedding (BART registers the norm of its embeddings behind the layers)."""
    layers = [list(layer.parameters()) for layer in backbone.layers]
    in_layers = {id(parameter) for layer in layers for parameter in layer}
    below: list[nn.Parameter] = []
    above: list[nn.Parameter] = []
    seen_layers = False
    for name, parameter in backbone.trunk.named_parameters():
        if id(parameter) in in_layers:
            seen_layers = True
        elif seen_layers and "embed" not in name:
            above.append(parameter)
        else:
            below.append(parameter)
    return Depths(below, layers, above)


def layers_below(backbone: Backbone, modules: Iterable[nn.Module]) -> int:
    """The layers below the first one that holds any of `modules`; 0 where one of them is outside the layers, or the
    trunk's layers are not known."""
    try:
        layers = backbone.layers
    except ModelError:
        return 0
    numbers = {id(module): number for number, layer in enumerate(layers) for module in layer.modules()}
    return min((numbers.get(id(module), 0) for module in modules), default=0)
