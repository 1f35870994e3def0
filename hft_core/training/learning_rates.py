"""Choose the learning rates of a stage: of the trunk, and of each task's head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hft_core.recipe.stage import Stage

HEAD_LEARNING_RATE = 1e-3
"""Heads are small and mostly fresh: the trunk's rate would leave them behind."""
ALONE_HEAD_LEARNING_RATE = 3e-3
"""Of an output layer on a frozen trunk, where its inputs have a root mean square of 1."""


@dataclass(frozen=True)
class LearningRates:
    """Learning rates of a stage."""

    trunk: float
    """Also of the heads' pre-trained parts."""
    head: float
    """Of fresh heads without a rate of their own, and of the combiner."""
    by_task: Mapping[str, float] = field(default_factory=dict)
    """Of the heads whose rate fits the scale of their inputs."""

    def of_head(self, task: str) -> float:
        """Return the learning rate of a task's fresh head."""
        return self.by_task.get(task, self.head)


def learning_rates(
    stage: Stage, strategy_default: float, factors: Mapping[str, float] | None = None, *, trunk_trains: bool = True
) -> LearningRates:
    """Return the stage's learning rates.

    By default the strategy's for the trunk, and at least `HEAD_LEARNING_RATE` for a head. Where a head has a factor
    (`hft_core.training.head_input_scale`), it is `HEAD_LEARNING_RATE`, or on a frozen trunk
    `ALONE_HEAD_LEARNING_RATE`, times that (docs/explanation/defaults.md).
    """
    trunk = stage.learning_rate or strategy_default
    if stage.head_learning_rate is not None:
        return LearningRates(trunk, stage.head_learning_rate)
    base = HEAD_LEARNING_RATE if trunk_trains else ALONE_HEAD_LEARNING_RATE
    by_task = {task: max(base * factor, trunk) for task, factor in (factors or {}).items()}
    return LearningRates(trunk, max(HEAD_LEARNING_RATE, trunk), by_task)
