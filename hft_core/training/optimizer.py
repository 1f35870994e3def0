"""Make the optimizer of a stage: AdamW over trunk, heads and combiner, each with its learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from hft_core.combiner import Combiner
from hft_core.device import dtensor
from hft_core.model.hybrid import HybridModel
from hft_core.recipe.stage import Stage
from hft_core.training.learning_rates import LearningRates
from hft_core.training.lr_schedule import schedule


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
