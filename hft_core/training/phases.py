"""Decide what a stage does next: train, measure, evaluate or end."""

from __future__ import annotations

import math
from enum import Enum, auto

from hft_core.recipe.stage import Stage
from hft_core.training.progress import Progress


class Phase(Enum):
    """What the training loop does next."""

    MEASURE_DEV_LOSSES = auto()
    """Measure the dev losses that the combiner asked for."""
    EVALUATE = auto()
    TRAIN = auto()
    """Run one step."""
    END = auto()


def next_phase(progress: Progress, *, steps: int, evaluation_steps: frozenset[int], dev_losses_every: int = 0) -> Phase:
    """Return what follows on the last finished step.

    A pure function of its arguments, so that a stage that is resumed between two phases continues with the second.

    `steps`: of the plan as it is now, which an evaluation may have shortened. `evaluation_steps`: the steps after which
    to evaluate. `dev_losses_every`: steps between two measurements for the combiner; 0 for none.
    """
    step = progress.step
    measured = progress.dev_losses_step == step
    if dev_losses_every and step > 0 and step % dev_losses_every == 0 and not measured:
        return Phase.MEASURE_DEV_LOSSES
    if step in evaluation_steps and not progress.is_evaluated():
        return Phase.EVALUATE
    if progress.stopped_early or step >= steps:
        return Phase.END
    return Phase.TRAIN


def evaluation_steps(stage: Stage, steps: int, *, batch: int, an_epoch: int) -> frozenset[int]:
    """Return the steps after which a stage with dev rows is evaluated: the last one always, unless it never is.

    `steps`: of the stage. `batch`: units in a step. `an_epoch`: units in an epoch.
    """
    if stage.eval_strategy == "no":
        return frozenset()
    if stage.eval_steps and stage.eval_strategy == "steps":
        return frozenset(range(stage.eval_steps, steps, stage.eval_steps)) | {steps}
    epochs = range(1, math.ceil(steps * batch / an_epoch) + 1)
    return frozenset(min(steps, math.ceil(epoch * an_epoch / batch)) for epoch in epochs) | {steps}
