"""Fast kernels in a training stage, and the order in which they override each other."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import nn

from hft_core.acceleration import fast_paths
from hft_core.acceleration.fast_paths import fast_dropout
from hft_core.forward_override import is_overridden, override_forward
from hft_core.model.execution_plan import PLAIN, ExecutionPlan


class Stub(nn.Module):
    """As much of a model as is looked at: its backbone and strategy override the first module."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
        self.calls: list[str] = []
        self.backbone: Any = Part(self, "backbone")
        self.strategy: Any = Part(self, "strategy")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.trunk(x)


class Part:
    def __init__(self, model: Stub, name: str) -> None:
        self.model, self.name = model, name

    def in_training(self, *_: object) -> AbstractContextManager[None]:
        module, calls = self.model.trunk[0], self.model.calls
        before = module.forward

        def forward(x: torch.Tensor) -> torch.Tensor:
            calls.append(self.name)
            return before(x)

        return override_forward({module: forward})


def test_the_strategy_overrides_the_backbone_which_overrides_dropout() -> None:
    model = Stub().train()
    with fast_paths.patched(model, ExecutionPlan(fast_kernels=fast_paths.KERNELS)):  # type: ignore[arg-type]
        assert all(is_overridden(module) for module in model.trunk)
        model(torch.ones(4))
    assert model.calls == ["strategy", "backbone"]
    assert not any(is_overridden(module) for module in model.trunk)


def test_the_plain_plan_leaves_modules_alone() -> None:
    model = Stub()
    with fast_paths.patched(model, PLAIN):  # type: ignore[arg-type]
        assert not any(is_overridden(module) for module in model.trunk)


def test_dropout_that_is_overridden_already_stays_so() -> None:
    layer = nn.Dropout(0.5).train()
    with override_forward({layer: lambda x: x}), fast_dropout(layer):
        assert torch.equal(layer(torch.ones(99)), torch.ones(99))


def test_gradients_are_dropped_where_values_were() -> None:
    layer = nn.Dropout(0.4).train()
    values = torch.ones(1000, requires_grad=True)
    with fast_dropout(layer):
        out = layer(values)
    (gradient,) = torch.autograd.grad(out.sum(), values)
    assert 0 < int((out == 0).sum()) < 1000
    assert torch.equal(gradient, out.detach())


class Own(nn.Dropout):
    """A subclass."""


@pytest.mark.parametrize("p", [0.0, 1.0, 0.001, 0.9999])
def test_a_probability_near_0_or_1_is_left_to_torch(p: float) -> None:
    layer, values = nn.Dropout(p).train(), torch.ones(10_000)
    torch.manual_seed(3)
    wanted = layer(values)
    torch.manual_seed(3)
    with fast_dropout(layer):
        assert torch.equal(layer(values), wanted)


def test_nothing_is_dropped_in_evaluation_and_nothing_is_overridden_afterwards() -> None:
    trunk = nn.Sequential(nn.Dropout(0.5), Own(0.5), nn.Dropout(0.5, inplace=True))
    with fast_dropout(trunk):
        assert ["forward" in vars(layer) for layer in trunk] == [True, False, False]
        assert torch.equal(trunk.eval()(torch.ones(50)), torch.ones(50))
    assert not any("forward" in vars(layer) for layer in trunk)
    trunk.train()
    torch.manual_seed(4)
    wanted = nn.functional.dropout(torch.ones(50), 0.5)
    torch.manual_seed(4)
    assert torch.equal(trunk[0](torch.ones(50)), wanted)
