"""Make the optimizer of a stage (AdamW over trunk, heads and combiner, each with its learning rate) and the schedules.

The schedules are those of `transformers.get_scheduler`, to the last bit; importing them from there would import peft, a
fifth of the time that a run takes to start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from hft_core.combiner import Combiner
from hft_core.device import dtensor
from hft_core.model.hybrid import HybridModel
from hft_core.recipe.stage import Stage

HEAD_LEARNING_RATE = 1e-3
"""Heads are small and mostly fresh: the trunk's rate would leave them behind."""
ALONE_HEAD_LEARNING_RATE = 3e-3
"""Of an output layer on a frozen trunk, where its inputs have a root mean square of 1."""
POLYNOMIAL_END = 1e-7
"""The final factor of a `polynomial` schedule."""


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
    (`hft_core.training.head_rates`), it is `HEAD_LEARNING_RATE`, or on a frozen trunk `ALONE_HEAD_LEARNING_RATE`, times
    that (docs/explanation/defaults.md).
    """
    trunk = stage.learning_rate or strategy_default
    if stage.head_learning_rate is not None:
        return LearningRates(trunk, stage.head_learning_rate)
    base = HEAD_LEARNING_RATE if trunk_trains else ALONE_HEAD_LEARNING_RATE
    by_task = {task: max(base * factor, trunk) for task, factor in (factors or {}).items()}
    return LearningRates(trunk, max(HEAD_LEARNING_RATE, trunk), by_task)


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


def make_optimizer(
    model: HybridModel, combiner: Combiner, stage: Stage, rates: LearningRates, *, steps: int, head_steps: int
) -> tuple[AdamW, LambdaLR]:
    """Make the optimizer and its schedule.

    In the first `head_steps` steps the trunk's learning rate is 0; its own warm-up follows. Biases, norms and the
    combiner's parameters are not decayed. Parameters with different factors on the trunk's rate (see
    `Strategy.rate_factors`) are in different groups.
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
    known = {id(p) for task in of_heads for p in model.head(task).pretrained_parameters()}
    heads = model.head_parameters(of_heads)
    pretrained = [parameter for parameter in heads if id(parameter) in known]
    fresh = [parameter for parameter in heads if id(parameter) not in known]
    for parameters, learning_rate, factor in (
        *((part, rates.trunk * scale, trunk_factor) for part, scale in _by_rate(trunk, model)),
        (pretrained, rates.trunk, trunk_factor),  # a group of its own: FSDP shards the trunk alone
        *((part, rate, head_factor) for part, rate in _by_task_rate(fresh, model, of_heads, rates)),
    ):
        for group, decay in _by_decay(parameters, stage.weight_decay):
            groups.append({"params": group, "lr": learning_rate, "weight_decay": decay})
            factors.append(factor)
    learned = [parameter for parameter in combiner.parameters() if parameter.requires_grad]
    if learned:
        groups.append({"params": learned, "lr": rates.head, "weight_decay": 0.0})
        factors.append(head_factor)
    betas = (stage.adam_beta1, stage.adam_beta2)
    optimizer = AdamW(groups, betas=betas, eps=stage.adam_epsilon, fused=True)
    return optimizer, LambdaLR(optimizer, factors)


def _by_rate(parameters: Sequence[nn.Parameter], model: HybridModel) -> list[tuple[list[nn.Parameter], float]]:
    """Group the parameters by the strategy's factor on their learning rate, in order of first appearance."""
    factors = {id(parameter): factor for parameter, factor in model.strategy.rate_factors(model.backbone).items()}
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
    return [(group, factor) for factor, group in groups.items()]


def _by_task_rate(
    fresh: Sequence[nn.Parameter], model: HybridModel, tasks: Sequence[str], rates: LearningRates
) -> list[tuple[list[nn.Parameter], float]]:
    """Group the fresh parameters of heads by task, each with its learning rate, so that the number of groups does not
    depend on the rates; a parameter that several tasks have is the first one's."""
    task_of = {id(p): task for task in reversed(tasks) for p in model.head_parameters([task])}
    groups: dict[str, list[nn.Parameter]] = {}
    for parameter in fresh:
        groups.setdefault(task_of[id(parameter)], []).append(parameter)
    return [(group, rates.of_head(task)) for task, group in groups.items()]


def _by_decay(parameters: Sequence[nn.Parameter], decay: float) -> list[tuple[list[nn.Parameter], float]]:
    """Group the parameters with their weight decay: matrices are decayed, vectors (biases, norms) are not.

    Sharded and unsharded parameters are in different groups, since AdamW's fused kernel takes no mixture of them.
    """
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [
        (list(group), rate)
        for kind, rate in ((matrices, decay), (vectors, 0.0))
        for _, group in groupby(kind, key=dtensor.is_sharded)
    ]
