from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchjd.aggregation import PCGrad
from torchjd.scalarization import UW

from hft_core.combiner import Combiner, weights_of
from hft_core.errors import PluginError
from hft_plugins.combiners import pcgrad, uncertainty, weighted
from hft_plugins.combiners import sum as summed

TASKS = ("a", "b", "c")
LOSSES, ALL = torch.tensor([0.7, 2.5, 0.1]), torch.arange(3)


def test_sum_adds_the_losses_up() -> None:
    combiner = summed.build(summed.Options(), tasks=TASKS)
    assert float(combiner(LOSSES, ALL)) == pytest.approx(3.3)
    assert weights_of(combiner, LOSSES, ALL).tolist() == [1.0, 1.0, 1.0]
    assert not list(combiner.parameters())


def test_weighted_multiplies_each_loss_by_its_tasks_weight() -> None:
    combiner = weighted.build(weighted.Options(weights={"b": 0.5, "c": 3.0}), tasks=TASKS)
    assert float(combiner(LOSSES, ALL)) == pytest.approx(0.7 + 0.5 * 2.5 + 3 * 0.1)
    present = torch.tensor([0, 2])
    assert float(combiner(LOSSES[present], present)) == pytest.approx(0.7 + 3 * 0.1)
    assert weights_of(combiner, LOSSES[present], present).tolist() == pytest.approx([1.0, 3.0])


def test_a_weight_of_a_task_that_is_not_in_the_stage_is_refused() -> None:
    with pytest.raises(PluginError, match=r"weights\.topik: .*Did you mean 'topic'\?"):
        weighted.build(weighted.Options(weights={"topik": 2.0}), tasks=("topic", "language"))


def set_to(combiner: Combiner, values: list[float]) -> Any:
    (log_variances,) = combiner.parameters()
    with torch.no_grad():
        log_variances.copy_(torch.tensor(values))
    return log_variances


def test_uncertainty_equals_its_formula_and_torchjd() -> None:
    combiner = uncertainty.build(uncertainty.Options(), tasks=TASKS)
    s = set_to(combiner, [0.3, -1.0, 2.0])
    reference = UW(3)
    with torch.no_grad():
        reference.log_var.copy_(s)
    value, expected = combiner(LOSSES, ALL), reference(LOSSES)
    assert torch.equal(value, expected)
    torch.testing.assert_close(value, (0.5 * torch.exp(-s) * LOSSES + 0.5 * s).sum())
    value.backward()
    expected.backward()
    torch.testing.assert_close(s.grad, reference.log_var.grad)
    torch.testing.assert_close(s.grad, 0.5 - 0.5 * torch.exp(-s.detach()) * LOSSES)
    torch.testing.assert_close(weights_of(combiner, LOSSES, ALL), 0.5 * torch.exp(-s.detach()))


def test_uncertainty_leaves_an_absent_tasks_variance_alone() -> None:
    combiner = uncertainty.build(uncertainty.Options(), tasks=TASKS)
    s = set_to(combiner, [0.3, -1.0, 2.0])
    present = torch.tensor([0, 2])
    reference = UW(2)
    with torch.no_grad():
        reference.log_var.copy_(s[present])
    value = combiner(LOSSES[present], present)
    assert torch.equal(value, reference(LOSSES[present]))
    value.backward()
    assert s.grad[1] == 0
    assert bool(s.grad[present].abs().gt(0).all())


def jacobian(rows: int, size: int, seed: int) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_pcgrad_equals_torchjd(rows: int, seed: int) -> None:
    gradients = jacobian(rows, 40, seed)
    combiner = pcgrad.build(pcgrad.Options(), tasks=[f"t{i}" for i in range(rows)])
    torch.manual_seed(seed)
    found, weights = combiner.aggregate(gradients, torch.arange(rows))
    torch.manual_seed(seed)
    torch.testing.assert_close(found, PCGrad()(gradients))
    torch.testing.assert_close(weights @ gradients, found)


def test_pcgrad_of_two_tasks_conflicts_with_neither() -> None:
    combiner = pcgrad.build(pcgrad.Options(), tasks=("a", "b"))
    conflicts = 0
    for seed in range(30):
        gradients = jacobian(2, 6, seed)
        found, _ = combiner.aggregate(gradients, torch.arange(2))
        assert bool((gradients @ found >= -1e-5).all())
        conflict = float(gradients[0] @ gradients[1]) < 0
        conflicts += conflict
        if not conflict:
            torch.testing.assert_close(found, gradients.sum(dim=0))
    assert 5 < conflicts < 25


def test_pcgrad_projects_each_gradient_on_the_others_normal_plane() -> None:
    one, two = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    combiner = pcgrad.build(pcgrad.Options(), tasks=("a", "b"))
    found, _ = combiner.aggregate(torch.stack([one, two]), torch.arange(2))
    torch.testing.assert_close(found, (one - (one @ two) / (two @ two) * two) + (two - (two @ one) / (one @ one) * one))
