"""How many operations the steps of a stage take: those that were really done, counted in a few of them.

The count is that of the matrix products and attentions that torch runs, forward and backward, by torch's own formulas
(`torch.utils.flop_counter`: 2·m·k·n for a product of `[m, k]` and `[k, n]`; a fused attention by its products, without
regard to what is masked). So padding counts, since it is computed; a frozen part has no gradients of its weights, and
what lies below all that trains has no backward; what is read from a store has nothing at all.

Counting costs some microseconds an operation: only the steps for which `is_counted` holds are counted, and the others
are taken to cost as much for each padded token. It changes nothing that is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

EVERY = 61
"""Steps between two that are counted; a prime, so that tasks that take turns are all met."""

ATEN = torch.ops.aten
FORMULAS: Mapping[Any, Callable[..., int]] = {
    **flop_registry,
    ATEN._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}


def is_counted(step: int, head_steps: int) -> bool:
    """Whether step `step` (0 for the first) is counted: the first one, the first in which the trunk moves, and every
    `EVERY`-th after it."""
    return step == 0 or (step >= head_steps and (step - head_steps) % EVERY == 0)


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations of what runs inside, in `flops`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = FORMULAS.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        return out


@dataclass
class Work:
    """The operations of a stage's steps so far."""

    flops: float = 0.0
    """Of all steps: those that were counted, and what the others are taken to cost."""
    counted_flops: float = 0.0
    counted_tokens: int = 0
    """Padded tokens of the steps that were counted since the trunk began to move, or else since the stage began."""

    @contextmanager
    def of_step(self, step: int, head_steps: int, tokens: int) -> Iterator[None]:
        """Count step `step`, which computes `tokens` padded tokens; the trunk trains from step `head_steps` on."""
        if not is_counted(step, head_steps):
            yield
            if self.counted_tokens:
                self.flops += self.counted_flops / self.counted_tokens * tokens
            return
        with FlopCounter() as counter:
            yield
        if step == head_steps:  # those before were of another kind
            self.counted_flops, self.counted_tokens = 0.0, 0
        self.flops += counter.flops
        self.counted_flops += counter.flops
        self.counted_tokens += tokens
