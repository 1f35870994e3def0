"""A trunk's pass in two parts: up to a layer, and from there on.

Both are the trunk's own `forward`, with stand-ins for the layers of the other part: masks, positions and whatever else
a family computes around its layers are its own, and no family needs to be known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class StandIn(nn.Module):
    """Stands where a layer was. It computes nothing, and has the layer's attributes: some families look at them."""

    def __init__(self, layer: nn.Module, answer: Callable[[], Any]) -> None:
        super().__init__()
        vars(self).update(layer=layer, answer=answer)  # not as a submodule: the layer is not to be found in its place

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["layer"], name)

    def forward(self, *_: Any, **__: Any) -> Any:
        return self.answer()


class Split:
    """The two parts of a trunk's pass, cut between two layers of a stack."""

    def __init__(self, stack: nn.ModuleList, forward: Callable[[Mapping[str, Tensor]], Tensor]) -> None:
        """`stack`: the layers; `forward`: the whole pass."""
        self.stack = stack
        self.forward = forward
        self._values: int | None = None
        """How many values a layer gives in a tuple with its hidden states first; 0 where it gives these alone."""

    def lower(self, inputs: Mapping[str, Tensor], depth: int) -> Tensor:
        """See `Backbone.lower`."""
        if depth == len(self.stack):
            return self.forward(inputs)
        given: list[Any] = []
        hook = self.stack[depth - 1].register_forward_hook(lambda layer, args, output: given.append(output))
        try:
            with self._standing_in(range(depth, len(self.stack)), lambda: given[-1]):
                self.forward(inputs)
        finally:
            hook.remove()
        output = given[-1]
        self._values = len(output) if isinstance(output, tuple) else 0
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        return hidden

    def upper(self, hidden: Tensor, inputs: Mapping[str, Tensor], depth: int) -> Tensor:
        """See `Backbone.upper`."""
        if depth == len(self.stack):
            return hidden
        if self._values is None:
            with torch.no_grad():
                self.lower({name: tensor[:1] for name, tensor in inputs.items()}, depth)
        output = (hidden, *[None] * (self._values - 1)) if self._values else hidden
        with self._standing_in(range(depth), lambda: output):
            return self.forward(inputs)

    @contextmanager
    def _standing_in(self, places: range, answer: Callable[[], Any]) -> Iterator[None]:
        layers = list(self.stack)
        try:
            for place in places:
                self.stack[place] = StandIn(layers[place], answer)
            yield
        finally:
            for place in places:
                self.stack[place] = layers[place]
