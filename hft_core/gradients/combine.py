"""Fill the gradient of every parameter from the batches of one step, as the combiner weighs the tasks.

Each task's loss is its sum over the whole step divided by the count of its targets in the whole step, however the step
is divided into batches; so gradient accumulation changes memory, not the result.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hft_core.batching.batch import Batch
from hft_core.combiner import Combiner
from hft_core.device.machine import Machine
from hft_core.gradients.loss_weighting import LossWeighting
from hft_core.gradients.representation_gradients import RepresentationGradients
from hft_core.gradients.shared_gradients import SharedGradients
from hft_core.gradients.step_losses import Combined, StepLosses
from hft_core.model.execution_plan import PLAIN, ExecutionPlan
from hft_core.model.hybrid import HybridModel


def fill(
    model: HybridModel,
    combiner: Combiner,
    batches: Sequence[Batch],
    machine: Machine,
    draw_seed: int,
    plan: ExecutionPlan = PLAIN,
) -> Combined:
    """Leave in `.grad` of every trained parameter the combined gradient of the step's losses.

    `draw_seed` seeds the combiner's random numbers, the same in every process. `plan`: how passes are computed.
    """
    losses = StepLosses(model, combiner, batches, machine, draw_seed, plan)
    if not losses.tasks:  # no row has a target
        return Combined((), losses.total, losses.total)
    if not combiner.per_task_gradients:
        return LossWeighting(losses).fill(batches)
    if combiner.at == "representation":
        return RepresentationGradients(losses).fill(batches)
    return SharedGradients(losses, one_pass=plan.one_pass).fill(batches)


def losses_again(
    model: HybridModel,
    combiner: Combiner,
    batches: Sequence[Batch],
    machine: Machine,
    plan: ExecutionPlan = PLAIN,
) -> Tensor:
    """Compute the mean losses of a step again, `[t]`, with the weights as they are now."""
    return StepLosses(model, combiner, batches, machine, draw_seed=0, plan=plan).no_grad_pass()
