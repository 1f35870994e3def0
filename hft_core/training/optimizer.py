"""The optimizer of a stage: AdamW over trunk, heads and combiner, each with its learning rate, and their schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from hft_core.combiner import Combiner
from hft_core.device import dtensor
from hft_core.device.distributed import Machine
from hft_core.model.hybrid import HybridModel
from hft_core.recipe.stage import Stage
from hft_core.training.schedules import schedule

HEAD_LEARNING_RATE = 1e-3
"""Heads are small and mostly fresh: the trunk's rate would leave them behind."""


@dataclass(frozen=True)
class Rates:
    """Learning rates of a stage."""

    trunk: float
    head: float


def rates(stage: Stage, strategy_default: float) -> Rates:
    """Those of the stage, or the strategy's for the trunk and at least `HEAD_LEARNING_RATE` for the heads."""
    trunk = stage.learning_rate or strategy_default
    return Rates(trunk, stage.head_learning_rate or max(HEAD_LEARNING_RATE, trunk))


def make(
    model: HybridModel, combiner: Combiner, stage: Stage, rate: Rates, *, steps: int, head_steps: int
) -> tuple[AdamW, LambdaLR]:
    """The optimizer and its schedule. In the first `head_steps` steps the trunk's rate is 0; its own warm-up follows.

    Biases, norms and what the combiner learns are not decayed. The strategy's factors on the trunk's rate make groups
    of their own.
    """
    warm = stage.warmup_steps if stage.warmup_steps is not None else round(stage.warmup_ratio * steps)
    head_factor = schedule(stage.lr_scheduler_type, warm, steps)
    later = schedule(stage.lr_scheduler_type, warm, max(1, steps - head_steps))

    def trunk_factor(step: int) -> float:
        return 0.0 if step < head_steps else later(step - head_steps)

    groups, factors = [], []
    of_trunk = [task for task in stage.tasks if model.head(task).part_of_trunk]
    of_heads = [task for task in stage.tasks if not model.head(task).part_of_trunk]
    trunk = [*model.trunk_parameters(), *model.head_parameters(of_trunk)]
    for parameters, learning_rate, factor in (
        *((part, rate.trunk * scale, trunk_factor) for part, scale in _by_rate(trunk, model)),
        (model.head_parameters(of_heads), rate.head, head_factor),
    ):
        for group, decay in _by_decay(parameters, stage.weight_decay):
            groups.append({"params": group, "lr": learning_rate, "weight_decay": decay})
            factors.append(factor)
    learned = [parameter for parameter in combiner.parameters() if parameter.requires_grad]
    if learned:
        groups.append({"params": learned, "lr": rate.head, "weight_decay": 0.0})
        factors.append(head_factor)
    betas = (stage.adam_beta1, stage.adam_beta2)
    optimizer = AdamW(groups, betas=betas, eps=stage.adam_epsilon, fused=True)
    return optimizer, LambdaLR(optimizer, factors)


def _by_rate(parameters: Sequence[nn.Parameter], model: HybridModel) -> list[tuple[list[nn.Parameter], float]]:
    """The parameters by the strategy's factor on their learning rate, in the order in which the factors appear."""
    factors = {id(parameter): factor for parameter, factor in model.strategy.rate_factors(model.backbone).items()}
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
    return [(group, factor) for factor, group in groups.items()]


def _by_decay(parameters: Sequence[nn.Parameter], decay: float) -> list[tuple[list[nn.Parameter], float]]:
    """Matrices are decayed, vectors (biases, norms) are not. Neighbours that are both divided among the processes, or
    both whole, are a group: one call of AdamW takes no mixture."""
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [
        (list(group), rate)
        for kind, rate in ((matrices, decay), (vectors, 0.0))
        for _, group in groupby(kind, key=dtensor.is_sharded)
    ]


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float, machine: Machine) -> float:
    """Scale the gradients down to a norm of at most `limit` together; the norm that they had, the same everywhere."""
    if not parameters:
        return 0.0
    if not machine.sharded:
        return float(clip_grad_norm_(parameters, limit))
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    whole = [grad for grad in grads if not dtensor.is_sharded(grad)]
    of_this_process = [dtensor.local_shard(grad) for grad in grads if dtensor.is_sharded(grad)]
    square = machine.group.all_reduce(_norm(of_this_process, machine).square()) + _norm(whole, machine).square()
    norm = float(machine.group.broadcast(square.sqrt()))
    if math.isfinite(norm):
        torch._foreach_mul_([*whole, *of_this_process], min(1.0, limit / (norm + 1e-6)))  # as torch's clip_grad_norm_
    return norm


def _norm(tensors: Sequence[Tensor], machine: Machine) -> Tensor:
    return get_total_norm(tensors).to(machine.device) if tensors else torch.zeros((), device=machine.device)
