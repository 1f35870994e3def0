"""Choose the number format of the trunk's matrix products by measuring this machine.

On a CPU with bfloat16 instructions a bfloat16 product is about four times faster than a float32 one; on one without, a
hundred times slower. A few milliseconds of products are a surer test than a list of processors.

This is the only choice by machine that changes what a run computes by more than the order of its sums, so its result is
written into the run's `recipe.yaml` and checkpoints (docs/explanation/precision.md).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from hft_core.device import gemm_speed

GAIN = 1.2
"""bfloat16 is chosen only when it is faster by this factor: it rounds more."""


REQUESTED = "as the recipe says"
"""The reason for a format that was not measured."""


@dataclass(frozen=True)
class Precision:
    """A number format and the reason for it."""

    name: str
    """`fp32` or `bf16`"""
    reason: str
    gflops: float
    """The measured rate of products in that format, 10⁹ operations a second."""

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """Return the context in which the model runs."""
        return torch.autocast(device.type, torch.bfloat16) if self.name == "bf16" else nullcontext()


def choose(wanted: str, device: torch.device) -> Precision:
    """Choose the faster of fp32 and bf16 on `device` for `auto`, otherwise `wanted`, and find its rate."""
    found = gemm_speed.throughput(device)
    if wanted != "auto":
        return Precision(wanted, REQUESTED, found.gflops[wanted])
    single, half = found.gflops["fp32"], found.gflops["bf16"]
    told = f"bfloat16 products run at {half:.0f} GFLOP/s, float32 at {single:.0f} ({found.origin})"
    if half > GAIN * single:
        return Precision("bf16", f"{told}: bfloat16 is {half / single:.1f} times faster", half)
    return Precision("fp32", f"{told}: float32 is the faster or as fast", single)
