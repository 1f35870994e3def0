from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from hft_core.combiner import Combiner
from hft_core.model.hybrid import HybridModel
from hft_core.recipe.stage import Stage
from hft_core.strategy import Strategy
from hft_core.training.learning_rates import (
    ALONE_HEAD_LEARNING_RATE,
    HEAD_LEARNING_RATE,
    LearningRates,
    learning_rates,
)
from hft_core.training.optimizer import make_optimizer


class Part(nn.Linear):
    """A head as the optimizer sees it; its bias may have come with the checkpoint."""

    part_of_trunk = bias_is_pretrained = False

    def pretrained_parameters(self) -> list[nn.Parameter]:
        return [self.bias] if self.bias_is_pretrained else []


class Parts:
    """What the optimizer looks at in a model: its parameters, and which heads came with the trunk."""

    def __init__(self, of_trunk: tuple[str, ...] = ()) -> None:
        self.trunk = nn.ModuleDict({"layer": nn.Linear(3, 3), "norm": nn.LayerNorm(3)})
        self.heads = nn.ModuleDict({"topic": Part(3, 2), "language": Part(3, 5)})
        self.strategy, self.backbone = Strategy(), None
        for task, head in self.heads.items():
            head.part_of_trunk = task in of_trunk

    def head(self, task: str) -> nn.Module:
        return self.heads[task]

    def trunk_parameters(self) -> list[nn.Parameter]:
        return list(self.trunk.parameters())

    def head_parameters(self, tasks: Any) -> list[nn.Parameter]:
        return [p for task in tasks for p in self.heads[task].parameters()]


class Learned(Combiner):
    def __init__(self) -> None:
        super().__init__(("topic", "language"))
        self.scale = nn.Parameter(torch.ones(2, 2))  # a matrix, so that only its being the combiner's spares it decay


def made(
    parts: Parts, steps: int = 20, head_steps: int = 0, by_task: dict[str, float] | None = None, **stage: Any
) -> tuple[AdamW, LambdaLR, Learned]:
    combiner = Learned()
    chosen = Stage(name="s", tasks=("topic", "language"), **stage)
    optimizer, schedule = make_optimizer(
        cast("HybridModel", parts),
        combiner,
        chosen,
        LearningRates(1e-3, 1e-2, by_task or {}),
        steps=steps,
        head_steps=head_steps,
    )
    return optimizer, schedule, combiner


def group_of(optimizer: AdamW, parameter: torch.Tensor) -> int:
    (index,) = [i for i, g in enumerate(optimizer.param_groups) if any(p is parameter for p in g["params"])]
    return index


def rates_over(optimizer: AdamW, schedule: LambdaLR, group: int, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[group]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_rates_are_the_stages_or_the_strategys_and_heads_learn_at_least_as_fast() -> None:
    assert learning_rates(Stage(), 5e-5) == LearningRates(5e-5, HEAD_LEARNING_RATE)
    assert learning_rates(Stage(learning_rate=2e-4), 5e-5) == LearningRates(2e-4, HEAD_LEARNING_RATE)
    assert learning_rates(Stage(learning_rate=3e-3), 5e-5) == LearningRates(3e-3, 3e-3)
    assert learning_rates(Stage(learning_rate=3e-3, head_learning_rate=1e-5), 5e-5) == LearningRates(3e-3, 1e-5)


def test_a_head_learns_at_a_rate_that_fits_its_inputs_unless_the_stage_states_one() -> None:
    factors = {"topic": 20.0, "language": 0.01}
    scaled = learning_rates(Stage(learning_rate=5e-5), 1e-4, factors)
    assert scaled.of_head("topic") == 20 * HEAD_LEARNING_RATE
    alone = learning_rates(Stage(learning_rate=5e-5), 1e-4, factors, trunk_trains=False)
    assert alone.of_head("topic") == 20 * ALONE_HEAD_LEARNING_RATE
    assert scaled.of_head("language") == 5e-5, "no head learns slower than the trunk"
    assert scaled.of_head("another") == HEAD_LEARNING_RATE
    assert learning_rates(Stage(head_learning_rate=1e-5), 1e-4, factors).of_head("topic") == 1e-5


def test_heads_have_their_own_rates_and_what_came_with_the_checkpoint_that_of_the_trunk() -> None:
    parts = Parts()
    topic = parts.heads["topic"]
    assert isinstance(topic, Part)
    topic.bias_is_pretrained = True
    optimizer, _, _ = made(parts, by_task={"topic": 5e-2})
    rates = [optimizer.param_groups[group_of(optimizer, p)]["initial_lr"] for p in (topic.weight, topic.bias)]
    assert rates == [5e-2, 1e-3]
    language = parts.heads["language"]
    assert optimizer.param_groups[group_of(optimizer, language.bias)]["initial_lr"] == 1e-2


def test_only_matrices_of_trunk_and_heads_are_decayed() -> None:
    parts = Parts()
    optimizer, _, combiner = made(parts, weight_decay=0.3)

    def decay(parameter: torch.Tensor) -> float:
        return float(optimizer.param_groups[group_of(optimizer, parameter)]["weight_decay"])

    assert decay(parts.trunk["layer"].weight) == decay(parts.heads["topic"].weight) == 0.3
    assert decay(parts.trunk["layer"].bias) == decay(parts.trunk["norm"].weight) == 0.0
    assert decay(parts.heads["topic"].bias) == decay(combiner.scale) == 0.0


def test_each_parameter_is_in_one_group_at_its_parts_rate() -> None:
    parts = Parts(of_trunk=("language",))
    optimizer, _, combiner = made(parts, lr_scheduler_type="constant")
    everything = [*parts.trunk.parameters(), *parts.heads.parameters(), combiner.scale]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(everything)

    def rate(parameter: torch.Tensor) -> float:
        return float(optimizer.param_groups[group_of(optimizer, parameter)]["lr"])

    assert {rate(p) for p in parts.trunk.parameters()} == {1e-3}
    assert {rate(p) for p in parts.heads["topic"].parameters()} == {1e-2}
    assert {rate(p) for p in parts.heads["language"].parameters()} == {1e-3}  # came with the trunk, moves at its rate
    assert rate(combiner.scale) == 1e-2


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "constant_with_warmup", "polynomial"])
def test_a_schedule_is_that_of_transformers(name: str) -> None:
    parts = Parts()
    optimizer, schedule, _ = made(parts, lr_scheduler_type=name, warmup_steps=4)
    found = rates_over(optimizer, schedule, group_of(optimizer, parts.heads["topic"].weight), 20)
    reference = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-2)
    theirs = get_scheduler(name, reference, num_warmup_steps=4, num_training_steps=20)
    expected = []
    for _ in range(20):
        expected.append(reference.param_groups[0]["lr"])
        reference.step()
        theirs.step()
    assert found == pytest.approx(expected, abs=2e-7)


def test_warm_up_is_a_share_of_the_steps_unless_steps_are_given() -> None:
    parts = Parts()
    for stage, warm in (({"warmup_ratio": 0.25}, 5), ({"warmup_ratio": 0.25, "warmup_steps": 2}, 2)):
        optimizer, schedule, _ = made(parts, lr_scheduler_type="constant_with_warmup", **stage)
        found = rates_over(optimizer, schedule, group_of(optimizer, parts.heads["topic"].weight), 20)
        assert found.index(1e-2) == warm


def test_the_trunk_waits_for_the_heads_and_then_has_a_warm_up_and_a_decay_of_its_own() -> None:
    parts = Parts(of_trunk=("language",))
    optimizer, schedule, _ = made(parts, head_steps=6, warmup_steps=4)
    found = rates_over(optimizer, schedule, group_of(optimizer, parts.trunk["layer"].weight), 20)
    assert found[:7] == [0.0] * 7
    assert found[10] == max(found) == pytest.approx(1e-3)
    assert found[19] == pytest.approx(1e-4)


def test_betas_and_epsilon_are_the_stages() -> None:
    optimizer, _, _ = made(Parts(), adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-6)
    assert optimizer.defaults["betas"] == (0.8, 0.95)
    assert optimizer.defaults["eps"] == 1e-6
