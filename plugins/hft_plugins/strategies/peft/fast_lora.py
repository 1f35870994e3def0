"""PEFT's plain LoRA layers under autocast, computed with fewer passes over memory.

PEFT casts what goes into a layer to float32, which autocast undoes, and scales and adds what comes out at its full
size. Here the additions are one product onto the output of the layer that they belong to. The products with the rank on
one side are laid out `[rank, tokens]`, which CPUs' libraries compute more quickly than `[tokens, rank]`. In float32 all
is left to PEFT, and to its last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hft_core.acceleration.cached_casts import only_casts
from hft_core.acceleration.forward_override import has_none, standing_in


@contextmanager
def held(trunk: nn.Module) -> Iterator[None]:
    """Inside, the trunk's plain LoRA layers on linear layers go this way."""
    layers = [module for module in trunk.modules() if type(module) is Linear and has_none(module)]
    with standing_in({layer: _Quick(layer) for layer in layers}):
        yield


class _Quick:
    """What a LoRA layer computes; in every case that is not plain, PEFT computes it."""

    def __init__(self, layer: Linear) -> None:
        self._layer: Any = layer

    def __call__(self, x: Tensor, *args: Any, **more: Any) -> Tensor:
        """`[…, in]` → `[…, out]`"""
        layer = self._layer
        name = None if args or more else _plain_adapter(layer)
        dtype = None if name is None else _dtype(x, layer.lora_A[name].weight, layer.lora_B[name].weight)
        if name is None or dtype is None:
            theirs: Tensor = type(layer).forward(layer, x, *args, **more)
            return theirs
        base: Tensor = layer.base_layer(x)
        first, second, scaling = layer.lora_A[name], layer.lora_B[name], layer.scaling[name]
        dropped = layer.lora_dropout[name](x.to(layer.lora_A[name].weight.dtype) if _drops(layer, name) else x)
        if not (_bare(first) and _bare(second)):
            found: Tensor = base + second(first(dropped) * scaling)
            return found.to(base.dtype)
        if base.dtype != dtype:
            base = base.to(dtype)
        scaled = (second.weight * scaling).to(dtype)  # rounded once
        parts = (base, dropped.to(dtype), first.weight.to(dtype), scaled)
        added: Tensor = _Addition.apply(*parts)  # type: ignore[no-untyped-call]
        return added


class _Addition(torch.autograd.Function):
    """`base + (x Aᵀ) Bᵀ`, of tensors of one dtype: `base` `[…, out]`, `x` `[…, in]`, `A` `[rank, in]`, `B`
    `[out, rank]`."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        small = first @ flat.t()
        ctx.save_for_backward(flat, small, first, second)
        ctx.shape = x.shape
        return torch.addmm(base.reshape(-1, base.shape[-1]), small.t(), second.t()).view(base.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        flat, small, first, second = ctx.saved_tensors
        of_base, of_x, of_first, of_second = ctx.needs_input_grad
        whole = gradient.reshape(-1, gradient.shape[-1])
        below = second.t() @ whole.t() if of_x or of_first else None
        return (
            gradient if of_base else None,
            (below.t() @ first).view(ctx.shape) if of_x and below is not None else None,
            below @ flat if of_first and below is not None else None,
            (small @ whole).t() if of_second else None,
        )


def _plain_adapter(layer: Any) -> str | None:
    """The adapter that the layer adds, where it trains, is the only one and does nothing but add. Evaluation in a stage
    is to round as evaluation of the saved run does."""
    if (
        not layer.training
        or layer.disable_adapters
        or layer.merged
        or layer.fan_in_fan_out
        or not layer.cast_input_dtype_enabled
    ):
        return None
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(names) != 1 or type(layer.base_layer) is not nn.Linear:
        return None
    (name,) = names
    parts = (layer.lora_A[name], layer.lora_B[name])
    plain = name not in layer.lora_variant and all(type(part) is nn.Linear and part.bias is None for part in parts)
    return str(name) if plain else None


def _dtype(x: Tensor, first: Tensor, second: Tensor) -> torch.dtype | None:
    """What autocast computes the products in; None where PEFT's casts are more than that."""
    kind = x.device.type
    casts = torch.is_autocast_enabled(kind) and first.dtype == second.dtype == torch.float32
    return torch.get_autocast_dtype(kind) if casts else None


def _drops(layer: Any, name: str) -> bool:
    dropout = layer.lora_dropout[name]
    return bool(dropout.training) and not isinstance(dropout, nn.Identity)


def _bare(module: nn.Module) -> bool:
    """Whether calling the module is nothing but the product with its weight."""
    plain = has_none(module) or only_casts(module)
    return plain and not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
