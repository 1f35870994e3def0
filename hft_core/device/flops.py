"""Count the floating-point operations of a stage's steps, from the operations that torch executes in some of them.

Matrix products and attention count, forward and backward, by torch's formulas (`torch.utils.flop_counter`: 2·m·k·n for
`[m, k]` times `[k, n]`; fused attention by its products, masked or not). So padding counts, weight gradients of frozen
layers and cached hidden states do not.

Counting costs some microseconds an operation, so only steps for which `is_counted` holds are counted; the others are
estimated by their padded tokens. It does not change results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

EVERY = 61
"""Every so many steps one is counted; a prime, so that round-robin tasks are all counted."""

ATEN = torch.ops.aten
FORMULAS: Mapping[Any, Callable[..., int]] = {
    **flop_registry,
    ATEN._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}


def is_counted(step: int, head_steps: int) -> bool:
    """Return whether step `step` (0 for the first) is counted: the first one, the first that updates the trunk (step
    `head_steps`), and every `EVERY`-th after it."""
    return step == 0 or (step >= head_steps and (step - head_steps) % EVERY == 0)


_counting: ContextVar[bool] = ContextVar("counting", default=False)


def is_counting() -> bool:
    """Return whether a `FlopCounter` is active. torch compiles nothing inside one, and what it has skipped once it does
    not compile later either: what may be compiled has to run as it is."""
    return _counting.get()


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations of the block in `flops`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __enter__(self) -> Self:
        self._token = _counting.set(True)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        _counting.reset(self._token)

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
    """The floating-point operations of a stage's steps so far."""

    flops: float = 0.0
    """Of all steps: counted ones, and estimates of the others."""
    counted_flops: float = 0.0
    counted_tokens: int = 0
    """Padded tokens of the counted steps since the first update of the trunk, or before it since the stage began."""

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
        if step == head_steps:  # earlier steps had no backward pass through the trunk
            self.counted_flops, self.counted_tokens = 0.0, 0
        self.flops += counter.flops
        self.counted_flops += counter.flops
        self.counted_tokens += tokens
