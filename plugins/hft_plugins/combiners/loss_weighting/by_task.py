"""Read options that map task names to numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hft_core.errors import PluginError, did_you_mean


def by_task(values: Mapping[str, float], tasks: Sequence[str], *, default: float, option: str, combiner: str) -> Tensor:
    """Return the numbers `[tasks]` in the order of the tasks, with `default` for a task that is not named.

    Raises `PluginError` when a name is no task of the stage.
    """
    for name in values:
        if name not in tasks:
            raise PluginError(
                f"combiner '{combiner}': {option}.{name}: no such task in the stage.{did_you_mean(name, tasks)}"
            )
    return torch.tensor([values.get(task, default) for task in tasks], dtype=torch.float32)
