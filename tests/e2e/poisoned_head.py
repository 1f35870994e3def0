"""A plugin: a regression whose loss is not finite in batches with a target above a billion.

Above a million, batches of up to two rows are spared: where all rows are such, the trial before a run refuses them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hft_core import HeadSpec, hookimpl
from hft_plugins.heads.regression import Options, Regression

LIMIT, ALWAYS = 1e6, 1e9


class Poisoned(Regression):
    def loss(self, features: Any, targets: Any) -> Tensor:
        total, target = super().loss(features, targets), targets.tensors["target"]
        limit = LIMIT if len(target) > 2 else ALWAYS
        return total * float("inf") if bool((target > limit).any()) else total


def build(options: Options, *, task: str) -> Poisoned:
    return Poisoned(task, options)


@hookimpl
def hft_heads() -> list[HeadSpec]:
    return [
        HeadSpec(
            name="poisoned",
            summary="Not finite on some rows",
            factory="poisoned_head:build",
            options="hft_plugins.heads.regression:Options",
        )
    ]
