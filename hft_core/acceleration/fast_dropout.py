"""Dropout on CPUs from sixteen random bits a value.

torch draws a number for each value that may be dropped, which takes a fifth of a step of a small encoder. Here one of
64 bits, from torch's own generator, serves four values (`tests/benchmarks/dropout.py`). Other values are dropped than
torch would drop, with the same chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from hft_core.forward_override import is_overridden, override_forward

LEVELS = 1 << 16
"""Chances are multiples of one in so many."""
LEAST = 0.002
"""A chance of dropping or keeping that is smaller is left to torch: rounding would change it by more than 0.4 %."""


def serves(tensor: Tensor, p: float) -> bool:
    """Whether values of `tensor` can be dropped with chance `p` in this way."""
    return tensor.device.type == "cpu" and LEAST <= p <= 1 - LEAST


def factors(shape: Sequence[int], p: float, dtype: torch.dtype) -> Tensor:
    """`shape`: 0 with chance `p`, and elsewhere what keeps the mean at 1."""
    dropped = round(p * LEVELS)
    numbers = torch.Size(shape).numel()
    bits = torch.empty((numbers + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    found = torch.empty(shape, dtype=dtype)
    torch.ge(bits.view(torch.int16)[:numbers].view(found.shape), dropped - LEVELS // 2, out=found)
    return found.mul_(LEVELS / (LEVELS - dropped))


@contextmanager
def held(model: nn.Module) -> Iterator[None]:
    """Inside, the model's `nn.Dropout`s that are nobody else's go this way."""
    chosen = [
        module
        for module in model.modules()
        if type(module) is nn.Dropout and not module.inplace and not is_overridden(module)
    ]
    with override_forward({module: _Quick(module) for module in chosen}):
        yield


class _Quick:
    def __init__(self, module: nn.Dropout) -> None:
        self._module = module

    def __call__(self, input: Tensor) -> Tensor:
        p = self._module.p
        if self._module.training and serves(input, p):
            return input * factors(input.shape, p, input.dtype)
        return functional.dropout(input, p, self._module.training)
