from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hft_core.acceleration import cached_casts
from hft_core.acceleration.cached_casts import held
from hft_core.device.distributed import Machine, find
from hft_core.recipe.stage import Stage

pytestmark = pytest.mark.usefixtures("one_thread")


class Holder(nn.Module):
    """As much of a model as is looked at."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16, bias=False), nn.Linear(16, 3))
        self.trunk.requires_grad_(False)
        self.trunk[3].requires_grad_(True)


class Casts(TorchDispatchMode):
    """Counts what is cast to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") == torch.bfloat16:
            self.sizes.append(args[0].numel())
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def machine() -> Machine:
    return find("bf16")


def passed(holder: Holder, machine: Machine, rows: int = 5) -> list[torch.Tensor]:
    """The outputs of a pass and the gradients of what trains."""
    with machine.autocast():
        out = holder.trunk(torch.linspace(-1, 1, rows * 8).reshape(rows, 8))
    trains = [parameter for parameter in holder.parameters() if parameter.requires_grad]
    return [out, *torch.autograd.grad(out.float().square().sum(), trains)]


def test_equals_autocast_bit_for_bit(machine: Machine) -> None:
    holder = Holder()
    wanted = passed(holder, machine)
    with held(holder, Stage(), machine):  # type: ignore[arg-type]
        found = [passed(holder, machine) for _ in range(2)]
    for each in found:
        assert all(torch.equal(left, right) for left, right in zip(each, wanted, strict=True))


def test_a_frozen_weight_is_cast_once(machine: Machine) -> None:
    holder = Holder()
    with held(holder, Stage(), machine), Casts() as casts:  # type: ignore[arg-type]
        for _ in range(3):
            passed(holder, machine)
    assert [casts.sizes.count(size) for size in (8 * 16, 16 * 16, 16 * 3)] == [1, 1, 3]


def test_a_weight_that_changes_or_trains_again_is_not_the_old_one(machine: Machine) -> None:
    holder, plain = Holder(), Holder()
    with held(holder, Stage(), machine):  # type: ignore[arg-type]
        with torch.inference_mode(), machine.autocast():
            holder.trunk(torch.ones(1, 8))  # the first pass is an evaluation
        for each in (holder, plain):
            with torch.no_grad():
                each.trunk[0].weight.mul_(2)
            each.trunk[2].requires_grad_(True)  # as after a warm-up of the heads
        found, wanted = passed(holder, machine), passed(plain, machine)
    assert len(found) == 4
    assert all(torch.equal(left, right) for left, right in zip(found, wanted, strict=True))


def test_nothing_is_left_behind_and_what_is_saved_is_float32(machine: Machine) -> None:
    holder = Holder()
    with held(holder, Stage(), machine):  # type: ignore[arg-type]
        passed(holder, machine)
        assert {tensor.dtype for tensor in holder.state_dict().values()} == {torch.float32}
    assert not [layer for layer in holder.trunk if "forward" in vars(layer)]


@pytest.mark.parametrize(
    ("precision", "stage", "limit"),
    [("fp32", {}, 1 << 30), ("bf16", {"gradient_checkpointing": True}, 1 << 30), ("bf16", {}, 2 * 16 * 16)],
)
def test_nothing_is_kept_where_it_saves_nothing_or_takes_too_much_memory(
    precision: str, stage: dict[str, bool], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached_casts, "LIMIT", limit)
    holder = Holder()
    with held(holder, Stage(**stage), find(precision)):  # type: ignore[arg-type]
        assert not [layer for layer in holder.trunk if "forward" in vars(layer)]
