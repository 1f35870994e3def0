"""Hold the weights of frozen linear layers in four or eight bits.

`nf4`: blocks of 64 values by the levels of a normal distribution, with the blocks' scales in eight bits (Dettmers et
al. 2023, arXiv:2305.14314), by bitsandbytes' kernels. `int8`: one scale a row of the weight. Products are computed in
the number format of their input (autocast's where that is on): a weight is dequantized for the product, and once more
in the backward pass, so that one layer's weight is in memory at a time.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from hft_core.backbone import QuantizedModule
from hft_core.errors import ModelError

Kind = Literal["nf4", "int8"]
BLOCK, NESTED_BLOCK = 64, 256
"""Values with one scale, and scales with one scale of theirs."""


class QuantizedLinear(QuantizedModule, nn.Linear):
    """A frozen `nn.Linear` in few bits. `weight` is dequantized when it is asked for: `[out, in]`, in float32."""

    def __init__(self, layer: nn.Linear, kind: Kind) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.kind = layer.in_features, layer.out_features, kind
        self.bias = layer.bias
        weight = layer.weight.detach().float()
        for name, tensor in (_to_nf4 if kind == "nf4" else _to_int8)(weight).items():
            self.register_buffer(name, tensor)

    @property
    def numbers(self) -> int:
        return self.in_features * self.out_features

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self.dequantized(torch.float32)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """Return the weight `[out, in]`."""
        return _from_nf4(self, dtype) if self.kind == "nf4" else _from_int8(self, dtype)

    def forward(self, input: Tensor) -> Tensor:
        """`[…, in]` → `[…, out]`"""
        device = input.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype
        product: Tensor = _Product.apply(input.to(dtype), self)  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias.to(dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.kind}"


class _Product(torch.autograd.Function):
    """`x Wᵀ`, of which the backward pass keeps nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return functional.linear(x, layer.dequantized(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer.dequantized(gradient.dtype), None


def quantize(trunk: nn.Module, kind: Kind, model: str) -> None:
    """Replace the linear layers of the trunk by quantized ones, one after another.

    Raises `ModelError` where there are none, or bitsandbytes is not installed.
    """
    if kind == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"model '{model}': 'quantization: nf4' needs bitsandbytes, which is not installed: "
            "pip install 'hft-core[quantization]', or take int8"
        )
    layers = [name for name, module in trunk.named_modules() if type(module) is nn.Linear]
    if not layers:
        raise ModelError(
            f"model '{model}': {type(trunk).__name__} has no linear layers (torch.nn.Linear) that "
            f"'quantization: {kind}' could store; leave it out"
        )
    for name in layers:
        trunk.set_submodule(name, QuantizedLinear(trunk.get_submodule(name), kind))  # type: ignore[arg-type]


def _kernels() -> Any:
    from bitsandbytes import functional as kernels

    return kernels


def _to_nf4(weight: Tensor) -> dict[str, Tensor]:
    codes, state = _kernels().quantize_4bit(weight, blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
    return {
        "codes": codes,
        "scales": state.absmax,
        "scale_levels": state.state2.code,
        "nested_scales": state.state2.absmax,
        "offset": state.offset.reshape(1),
    }


def _from_nf4(layer: Any, dtype: torch.dtype) -> Tensor:
    kernels = _kernels()
    nested = kernels.QuantState(
        absmax=layer.nested_scales, code=layer.scale_levels, blocksize=NESTED_BLOCK, dtype=torch.float32
    )
    state = kernels.QuantState(
        absmax=layer.scales,
        shape=torch.Size((layer.out_features, layer.in_features)),
        blocksize=BLOCK,
        quant_type="nf4",
        dtype=dtype,
        offset=layer.offset[0],
        state2=nested,
    )
    weight: Tensor = kernels.dequantize_4bit(layer.codes, state)
    return weight


def _to_int8(weight: Tensor) -> dict[str, Tensor]:
    scales = weight.abs().amax(dim=1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny) / 127
    return {"codes": (weight / scales).round_().to(torch.int8), "scales": scales}


def _from_int8(layer: Any, dtype: torch.dtype) -> Tensor:
    return layer.codes.to(dtype) * layer.scales.to(dtype)  # type: ignore[no-any-return]
