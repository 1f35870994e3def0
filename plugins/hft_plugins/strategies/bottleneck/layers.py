"""Bottleneck adapters as modules, and the places in a layer of the trunk where their output is added.

Each place is a module of the layer that it is in, and works by forward hooks: no module of the trunk is replaced, so
that the trunk's own weights keep their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN

from hft_core.backbone import Backbone
from hft_plugins.strategies.bottleneck.options import Options
from hft_plugins.strategies.bottleneck.sublayers import Layer, Sublayer, hidden_of

PLACES = {"attention": "bottleneck_attention", "output": "bottleneck_output"}
"""The places of a layer as saved adapters call them, with the attribute of the layer that each is."""


class Bottleneck(nn.Module):
    """A projection down, a non-linearity, and a projection up that is zero at first: `[batch, seq, hidden]` → what is
    to be added, `[batch, seq, hidden]`."""

    def __init__(self, hidden: int, options: Options) -> None:
        super().__init__()
        size = options.bottleneck_size or max(1, int(hidden / options.reduction_factor))
        self.down = nn.Linear(hidden, size)
        self.non_linearity = ACT2FN[options.non_linearity]
        self.up = nn.Linear(size, hidden)
        self.dropout = nn.Dropout(options.dropout)
        self.scaling = options.scaling
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.dropout(self.scaling * self.up(self.non_linearity(self.down(x))))
        return added


class Place(nn.Module):
    """A place in a layer where what `adapter` makes of the hidden states there is added to them."""

    def __init__(self, adapter: nn.Module) -> None:
        super().__init__()
        self.adapter = adapter


class InsideResidual(Place):
    """Compute h + A(h), with h the output of a sub-layer before its residual is added (Houlsby et al. 2019)."""

    def __init__(self, adapter: nn.Module, sublayer: Sublayer) -> None:
        super().__init__(adapter)
        sublayer.last.register_forward_hook(self._add)

    def _add(self, module: nn.Module, args: Any, output: Tensor) -> Any:
        return output + self.adapter(output)


class AfterLayer(Place):
    """On x, the sum of the feed-forward output and its residual: norm(x + A(norm(x))) instead of norm(x) where the
    layer ends with a norm, x + A(x) where it does not (Pfeiffer et al. 2021, as in the `adapters` library)."""

    def __init__(self, adapter: nn.Module, layer: Layer) -> None:
        super().__init__(adapter)
        if layer.norm is not None:
            layer.norm.register_forward_hook(self._add_before_norm)
        else:
            layer.module.register_forward_hook(self._add)

    def _add_before_norm(self, norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Any:
        return norm.forward(args[0] + self.adapter(output))  # a call would come here again

    def _add(self, module: nn.Module, args: Any, output: Any) -> Any:
        hidden = hidden_of(output)
        changed = hidden + self.adapter(hidden)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed


class Beside(Place):
    """Compute h + A(x), with x the input of a sub-layer, normalized by a norm before it, and h its output.

    Source: He et al. 2022, arXiv:2110.04366."""

    def __init__(self, adapter: nn.Module, sublayer: Sublayer) -> None:
        super().__init__(adapter)
        self._input: Tensor | None = None
        sublayer.first.register_forward_pre_hook(self._keep)
        sublayer.last.register_forward_hook(self._add)

    def _keep(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._input = args[0]

    def _add(self, module: nn.Module, args: Any, output: Tensor) -> Any:
        x, self._input = self._input, None
        return output + self.adapter(x)


def place(adapter: nn.Module, layer: Layer, where: str, options: Options) -> None:
    """Add `adapter` to `layer`; `where` is one of `PLACES`."""
    sublayer = layer.attention if where == "attention" else layer.feed_forward
    placed: Place
    if options.kind == "houlsby":
        placed = InsideResidual(adapter, sublayer)
    elif options.kind == "parallel":
        placed = Beside(adapter, sublayer)
    else:
        placed = AfterLayer(adapter, layer)
    layer.module.add_module(PLACES[where], placed)


def places(backbone: Backbone) -> Iterator[tuple[str, Place]]:
    """What `place` put into the trunk, the lowest first, as `layers.N.attention` and `layers.N.output`."""
    for number, layer in enumerate(backbone.layers):
        for where, attribute in PLACES.items():
            found = getattr(layer, attribute, None)
            if isinstance(found, Place):
                yield f"layers.{number}.{where}", found
