"""Compute the factor of the learning rates by step.

The schedules are those of `transformers.get_scheduler`, to the last bit; importing them from there would import peft, a
fifth of the time that a run takes to start.
"""

from __future__ import annotations

import math
from collections.abc import Callable

POLYNOMIAL_END = 1e-7
"""The final factor of a `polynomial` schedule."""


def schedule(name: str, warmup: int, steps: int) -> Callable[[int], float]:
    """Return the factor of the learning rate by step.

    It rises from 0 in the first `warmup` steps, except for `constant`. `name`: one of `Stage.lr_scheduler_type`.
    """
    if name == "constant":
        return lambda step: 1.0
    decay, decay_steps = DECAYS[name], max(1, steps - warmup)
    return lambda step: step / warmup if step < warmup else decay(step - warmup, decay_steps, steps - step)


def _flat(done: int, decay_steps: int, left: int) -> float:
    return 1.0


def _linear(done: int, decay_steps: int, left: int) -> float:
    return max(0.0, left / decay_steps)


def _cosine(done: int, decay_steps: int, left: int) -> float:
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * (done / decay_steps))))


def _polynomial(done: int, decay_steps: int, left: int) -> float:
    return POLYNOMIAL_END if left < 0 else (1.0 - POLYNOMIAL_END) * (1 - done / decay_steps) + POLYNOMIAL_END


DECAYS = {"constant_with_warmup": _flat, "linear": _linear, "cosine": _cosine, "polynomial": _polynomial}
"""The factor after the warm-up, from the steps since then, all steps after the warm-up, and the steps left."""
