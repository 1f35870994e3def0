"""The number format of the trunk's products, chosen by measuring them on this machine.

On a CPU with bfloat16 instructions a bfloat16 product is about four times faster than a float32 one; on one without, a
hundred times slower. No list of processors tells which is which as surely as a few milliseconds of products.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

SIZE = 384
"""Side of the measured square products, near those of a small encoder."""
SECONDS = 0.02
"""Time given to each format."""
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
        dtype = torch.bfloat16 if wanted == "bf16" else torch.float32
        return Precision(wanted, "as the recipe says", rate(dtype, device))
    single, half = rate(torch.float32, device), rate(torch.bfloat16, device)
    measured = f"bfloat16 products run at {half:.0f} GFLOP/s, float32 at {single:.0f}"
    if half > GAIN * single:
        return Precision("bf16", f"{measured}: bfloat16 is {half / single:.1f} times faster", half)
    return Precision("fp32", f"{measured}: float32 is the faster or as fast", single)


def rate(dtype: torch.dtype, device: torch.device) -> float:
    """Products of `[SIZE, SIZE]` matrices in `dtype`, in 10⁹ operations a second."""
    left = torch.randn(SIZE, SIZE, device=device).to(dtype)
    right = torch.randn(SIZE, SIZE, device=device).to(dtype)
    left @ right  # the first call compiles and allocates
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < SECONDS or count == 0:
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        count += 1
    return 2 * SIZE**3 * count / spent / 1e9
