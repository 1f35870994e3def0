"""Dropout, and attention with dropout, as a stage on a CPU trains with them, beside torch's own.

python tests/benchmarks/dropout.py [--rounds N] [--steps N] [--json PATH]

Forward and backward passes of one operation: hidden states of 32 rows of 70 tokens in MiniLM's size, and the attention
of one of its layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import side_by_side
import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hft_core.acceleration.fast_paths import fast_dropout
from hft_plugins.backbones import attention

ROWS, LENGTH, HIDDEN, HEADS = 32, 70, 384, 12
P = 0.1


def rate(step: Callable[[], Tensor], steps: int) -> float:
    """Passes forward and backward a second."""
    step().sum().backward()
    began = time.perf_counter()
    for _ in range(steps):
        step().sum().backward()
    return steps / (time.perf_counter() - began)


def hidden(kind: torch.dtype, fast: bool, steps: int) -> float:
    values = torch.randn(ROWS, LENGTH, HIDDEN, dtype=kind).requires_grad_()
    layer = nn.Dropout(P).train()
    if not fast:
        return rate(lambda: layer(values), steps)
    with fast_dropout(layer):
        return rate(lambda: layer(values), steps)


def attended(kind: torch.dtype, fast: bool, steps: int) -> float:
    shape = (ROWS, HEADS, LENGTH, HIDDEN // HEADS)
    query, key, value = (torch.randn(shape, dtype=kind).requires_grad_() for _ in range(3))
    seen = (torch.arange(LENGTH) < torch.randint(50, LENGTH + 1, (ROWS, 1)))[:, None, None, :]
    mask = seen.expand(ROWS, 1, LENGTH, LENGTH)
    attend = attention.attend if fast else sdpa_attention_forward
    return rate(lambda: attend(nn.Module(), query, key, value, mask, dropout=P)[0], steps)


def main() -> None:
    settings = side_by_side.arguments(__doc__, rounds=9, steps=20)
    report = side_by_side.Report("dropout")
    for kind in (torch.float32, torch.bfloat16):
        for name, measured in {"hidden states": hidden, "attention": attended}.items():
            rates = side_by_side.in_turn(
                {
                    "hft": lambda m=measured, k=kind: m(k, True, settings.steps),  # type: ignore[misc]
                    "torch": lambda m=measured, k=kind: m(k, False, settings.steps),  # type: ignore[misc]
                },
                settings.rounds,
            )
            report.add(
                of=name,
                dtype=str(kind).removeprefix("torch."),
                torch_ms=1000 / sorted(rates["torch"])[settings.rounds // 2],
                hft_is_times=side_by_side.ratio(rates, "hft", "torch"),
            )
    side_by_side.finish(report, settings.json)


if __name__ == "__main__":
    main()
