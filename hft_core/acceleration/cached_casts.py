"""Weights that stand still are cast to bfloat16 once a stage, not in every pass.

Under autocast every product casts its float32 weights; torch keeps the result within one context, and only of weights
that train. Here a frozen linear layer multiplies with a copy that was cast before: the same numbers, bit for bit. Its
parameters stay what they were, and so does what is saved or folded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional

from hft_core.acceleration.forward_override import has_none, standing_in
from hft_core.device.distributed import Machine
from hft_core.model.hybrid import HybridModel
from hft_core.recipe.stage import Stage

LIMIT = 1 << 30
"""Bytes of all copies; a trunk that needs more casts in every pass."""


@contextmanager
def held(model: HybridModel, stage: Stage, machine: Machine) -> Iterator[None]:
    """Inside, the trunk's frozen linear layers keep their casts. Nothing is kept in float32, and with gradient
    checkpointing, which is there to save memory (else a backward pass keeps these very casts until it is done)."""
    wanted = machine.precision.name == "bf16" and not stage.gradient_checkpointing
    linear = [module for module in model.trunk.modules() if wanted and isinstance(module, nn.Linear)]
    layers = [layer for layer in linear if _stands_still(layer)]
    if 2 * sum(layer.weight.numel() for layer in layers) > LIMIT:
        layers = []
    with standing_in({layer: _Product(layer) for layer in layers}):
        yield


def only_casts(layer: nn.Module) -> bool:
    """Whether what stands in for the layer's `forward` is a product with casts that are kept: while its weight trains,
    the plain product."""
    return isinstance(vars(layer).get("forward"), _Product)


def _stands_still(layer: nn.Linear) -> bool:
    """Whether its weight does not train, and its forward pass is nobody's but torch's."""
    weight = layer.weight
    plain = type(layer) is nn.Linear and has_none(layer)
    return plain and not weight.requires_grad and weight.dtype == torch.float32 and not isinstance(weight, DTensor)


class _Product:
    """What a linear layer computes, with casts that are kept."""

    def __init__(self, layer: nn.Linear) -> None:
        self._layer = layer
        self._weight, self._bias = _Cast(), _Cast()

    def __call__(self, input: Tensor) -> Tensor:
        weight: Tensor = self._layer.weight
        bias: Tensor | None = self._layer.bias
        device = input.device.type
        if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16:
            weight = self._weight.of(weight)
            bias = None if bias is None else self._bias.of(bias)
        return functional.linear(input, weight, bias)


class _Cast:
    """A parameter in bfloat16, made anew when it has changed; one that trains (again) is left to autocast."""

    def __init__(self) -> None:
        self._seen: tuple[int, int] | None = None
        self._cast: Tensor | None = None

    def of(self, tensor: Tensor) -> Tensor:
        if tensor.requires_grad:
            self._cast = None
            return tensor
        now = (tensor.data_ptr(), tensor._version)
        if self._cast is None or self._seen != now:
            # An evaluation may make it, and training go on with it.
            with torch.inference_mode(False), torch.no_grad():
                self._cast, self._seen = tensor.detach().to(torch.bfloat16), now
        return self._cast
