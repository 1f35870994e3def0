"""The number format of the trunk's products, chosen by measuring them on this machine.

On a CPU with bfloat16 instructions a bfloat16 product is about four times faster than a float32 one; on one without, a
hundred times slower. No list of processors tells which is which as surely as a few milliseconds of products.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIZE = 384
"""Side of the measured square products, near those of a small encoder."""
ROUNDS, PRODUCTS = 8, 12
"""Each format is measured in so many rounds of so many products, in turn with the others; the best product counts,
since whatever else the machine does can only slow one down."""
HOPELESS = 10
"""A format that is slower by this factor is not measured any further."""
GAIN = 1.2
"""bfloat16 is taken only when it is faster by this factor: its rounding is not free."""


@dataclass(frozen=True)
class Precision:
    """A choice and its reason."""

    name: str
    """`fp32` or `bf16`"""
    reason: str
    gflops: float
    """The measured rate of products in that format, 10⁹ operations a second."""

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """The context in which the model runs."""
        return torch.autocast(device.type, torch.bfloat16) if self.name == "bf16" else nullcontext()


def choose(wanted: str, device: torch.device) -> Precision:
    """`auto`: the faster of fp32 and bf16 on `device`, measured; otherwise `wanted`, measured all the same."""
    if wanted != "auto":
        (rate,) = rates((DTYPES[wanted],), device)
        return Precision(wanted, "as the recipe says", rate)
    single, half = rates((DTYPES["fp32"], DTYPES["bf16"]), device)
    told = f"bfloat16 products run at {half:.0f} GFLOP/s, float32 at {single:.0f}"
    if half > GAIN * single:
        return Precision("bf16", f"{told}: bfloat16 is {half / single:.1f} times faster", half)
    return Precision("fp32", f"{told}: float32 is the faster or as fast", single)


def rates(dtypes: Sequence[torch.dtype], device: torch.device) -> list[float]:
    """The best rate of `[SIZE, SIZE]` products in each of `dtypes`, in 10⁹ operations a second.

    A format without instructions of its own is a hundred times slower than the others: it is tried twice at most.
    """
    own = torch.Generator(device).manual_seed(0)  # a run's random numbers are not to depend on what was measured
    pairs = [[torch.randn(SIZE, SIZE, device=device, generator=own).to(dtype) for _ in range(2)] for dtype in dtypes]
    best = [_seconds(pair, device) for pair in pairs]
    for _ in range(ROUNDS):
        for i, pair in enumerate(pairs):
            repeats = PRODUCTS if best[i] < 10 * min(best) else 1
            best[i] = min(best[i], *(_seconds(pair, device) for _ in range(repeats)))
    return [2 * SIZE**3 / seconds / 1e9 for seconds in best]


def _seconds(pair: Sequence[torch.Tensor], device: torch.device) -> float:
    left, right = pair
    start = time.perf_counter()
    left @ right
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
