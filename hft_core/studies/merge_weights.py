"""Merge what several fine-tunings changed in one base model's weights, by published methods (PEFT's functions)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from peft.utils import merge_utils
from torch import Tensor

from hft_core.errors import UsageError

METHODS = ("linear", "task-arithmetic", "ties", "dare")
SCALES = {"task-arithmetic": 0.4, "ties": 1.0, "dare": 0.4}
"""Factors on the changes by default: what Yadav et al. 2023 (arXiv:2306.01708) take without a validation set, and for
`dare`, which scales what it keeps, that of task arithmetic."""
DENSITY = 0.2
"""Share of the changes that `ties` and `dare` keep by default."""


@dataclass(frozen=True)
class MergeMethod:
    """How changes are merged."""

    name: str
    """`linear`: their mean (model soups, Wortsman et al. 2022). `task-arithmetic`: their sum times a factor (Ilharco et
    al. 2023). `ties`: the largest of each tensor, of those the ones with the majority's sign, their mean (Yadav et al.
    2023). `dare`: a random share of each, scaled up, then as task arithmetic (Yu et al. 2024)."""
    scale: float
    density: float = 1.0
    seed: int = 0
    """Of what `dare` drops."""


def method_of(name: str, count: int, scale: float | None, density: float | None, seed: int = 0) -> MergeMethod:
    """Return the method for so many runs, with its defaults. Raises `UsageError` for options that it does not have."""
    prunes = name in ("ties", "dare")
    if density is not None and not prunes:
        raise UsageError(f"--density is for ties and dare: '{name}' keeps all changes")
    if scale is not None and name == "linear":
        raise UsageError("--scale is not for linear, which takes the mean of the changes")
    factor = 1 / count if name == "linear" else SCALES[name] if scale is None else scale
    return MergeMethod(name, factor, (DENSITY if density is None else density) if prunes else 1.0, seed)


def merged(
    base: Mapping[str, Tensor], changed: Sequence[Mapping[str, Tensor]], method: MergeMethod
) -> dict[str, Tensor]:
    """Return the base's weights with the merged changes. Tensors that are not floating-point, such as position ids, and
    those that no run changed are the base's.

    Raises `UsageError` where names or shapes differ.
    """
    found: dict[str, Tensor] = {}
    generator_state = torch.get_rng_state()
    torch.manual_seed(method.seed)
    try:
        for name, weight in base.items():
            others = [_same(state, name, weight) for state in changed]
            deltas = [other.float() - weight.float() for other in others]
            if not weight.is_floating_point() or not any(bool(delta.any()) for delta in deltas):
                found[name] = weight.clone()
            else:
                found[name] = (weight.float() + _combined(deltas, method)).to(weight.dtype)
    finally:
        torch.set_rng_state(generator_state)
    return found


def _same(state: Mapping[str, Tensor], name: str, weight: Tensor) -> Tensor:
    if name not in state or state[name].shape != weight.shape:
        shape = tuple(state[name].shape) if name in state else "nothing"
        raise UsageError(
            f"the trunks are not alike: '{name}' is {tuple(weight.shape)} in the base model and {shape} in a run"
        )
    return state[name]


def _combined(deltas: list[Tensor], method: MergeMethod) -> Tensor:
    factors = torch.full((len(deltas),), method.scale)
    if method.name == "ties":
        found: Tensor = merge_utils.ties(deltas, factors, method.density)
    elif method.name == "dare":
        found = merge_utils.dare_linear(deltas, factors, method.density)
    else:
        found = merge_utils.task_arithmetic(deltas, factors)
    return found
