"""The base of all combiners of gradients: one gradient per task, at a point that the recipe chooses."""

from __future__ import annotations

from pydantic import Field

from hft_core import options
from hft_core.combiner import At, Combiner


class Options(options.Options):
    """Where the gradients are taken."""

    at: At = Field(
        default="shared",
        description="whose gradients: those of all `shared` parameters that train (exact), or those of the trunk's "
        "`representation`, its last hidden states (one backward pass through the trunk for all tasks)",
    )


class GradientCombiner(Combiner):
    """Combine the gradients of the tasks, taken `at` a point of the model."""

    per_task_gradients = True

    def __init__(self, tasks: tuple[str, ...], *, at: At) -> None:
        super().__init__(tasks)
        self.at = at
