"""Run a trunk's forward pass in two parts: up to a layer, and from there to the end.

Both parts call the trunk's own `forward` with the layers of the other part replaced, so that masks, positions and
whatever else a model family computes around its layers are its own. Replaced, not overridden: an overridden layer still
runs its forward hooks, and strategies compute in hooks (bottleneck adapters).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class _Replacement(nn.Module):
    """Returns a given output in place of a layer, whose attributes it has."""

    def __init__(self, layer: nn.Module, output: Callable[[], Any]) -> None:
        super().__init__()
        vars(self).update(layer=layer, output=output)  # not a submodule: hooks and states must not reach the layer

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["layer"], name)

    def forward(self, *_: Any, **__: Any) -> Any:
        return self.output()


class Split:
    """The two parts of a trunk's forward pass."""

    def __init__(self, stack: nn.ModuleList, forward: Callable[[Mapping[str, Tensor]], Tensor]) -> None:
        """`stack`: the trunk's layers; `forward`: the whole pass."""
        self.stack = stack
        self.forward = forward
        self._tuple_length: int | None = None
        """Length of the tuple that a layer returns, hidden states first; 0 for a layer that returns them alone."""

    def lower(self, inputs: Mapping[str, Tensor], depth: int) -> Tensor:
        """See `Backbone.lower`."""
        if depth == len(self.stack):
            return self.forward(inputs)
        outputs: list[Any] = []
        hook = self.stack[depth - 1].register_forward_hook(lambda layer, args, output: outputs.append(output))
        try:
            with self._replaced(range(depth, len(self.stack)), lambda: outputs[-1]):
                self.forward(inputs)
        finally:
            hook.remove()
        output = outputs[-1]
        self._tuple_length = len(output) if isinstance(output, tuple) else 0
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        return hidden

    def upper(self, hidden: Tensor, inputs: Mapping[str, Tensor], depth: int) -> Tensor:
        """See `Backbone.upper`."""
        if depth == len(self.stack):
            return hidden
        if self._tuple_length is None:
            with torch.no_grad():
                self.lower({name: tensor[:1] for name, tensor in inputs.items()}, depth)
        output = (hidden, *[None] * (self._tuple_length - 1)) if self._tuple_length else hidden
        with self._replaced(range(depth), lambda: output):
            return self.forward(inputs)

    @contextmanager
    def _replaced(self, indices: range, output: Callable[[], Any]) -> Iterator[None]:
        layers = list(self.stack)
        try:
            for index in indices:
                self.stack[index] = _Replacement(layers[index], output)
            yield
        finally:
            for index in indices:
                self.stack[index] = layers[index]
