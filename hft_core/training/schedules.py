"""How a learning rate rises and falls over a stage: the schedules of `transformers.get_scheduler`, to the last bit.

Written out because importing them imports peft, a fifth of the time that a run takes to start.
"""

from __future__ import annotations

import math
from collections.abc import Callable

END = 1e-7
"""The factor that a `polynomial` schedule ends at."""


def schedule(name: str, warmup: int, steps: int) -> Callable[[int], float]:
    """The factor of the learning rate by step; it rises from 0 in the first `warmup` steps, unless it is `constant`.

    `name`: one of `Stage.lr_scheduler_type`.
    """
    if name == "constant":
        return lambda step: 1.0
    fall, falling = FALLS[name], max(1, steps - warmup)
    return lambda step: step / warmup if step < warmup else fall(step - warmup, falling, steps - step)


def _flat(done: int, falling: int, left: int) -> float:
    return 1.0


def _linear(done: int, falling: int, left: int) -> float:
    return max(0.0, left / falling)


def _cosine(done: int, falling: int, left: int) -> float:
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * (done / falling))))


def _polynomial(done: int, falling: int, left: int) -> float:
    return END if left < 0 else (1.0 - END) * (1 - done / falling) + END


FALLS = {"constant_with_warmup": _flat, "linear": _linear, "cosine": _cosine, "polynomial": _polynomial}
"""The factor after the warm-up: from the steps done since, those that it takes to fall, and those left."""
