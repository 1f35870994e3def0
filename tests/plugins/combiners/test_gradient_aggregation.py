from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchjd import aggregation
from torchjd.aggregation import Aggregator

from hft_core.combiner import Combiner
from hft_core.specs import load
from hft_plugins.combiners import hft_combiners
from hft_plugins.combiners.gradient_aggregation import gradvac, nash_mtl
from hft_plugins.combiners.loss_weighting import gradnorm

REFERENCES: dict[str, Callable[[int], Aggregator]] = {
    "pcgrad": lambda tasks: aggregation.PCGrad(),
    "gradvac": lambda tasks: aggregation.GradVac(),
    "cagrad": lambda tasks: aggregation.CAGrad(c=0.5),
    "mgda": lambda tasks: aggregation.MGDA(),
    "nash-mtl": lambda tasks: aggregation.NashMTL(n_tasks=tasks),
    "fairgrad": lambda tasks: aggregation.FairGrad(alpha=2.0),
    "upgrad": lambda tasks: aggregation.UPGrad(),
    "dualproj": lambda tasks: aggregation.DualProj(),
    "aligned-mtl": lambda tasks: aggregation.AlignedMTL(),
    "imtl-g": lambda tasks: aggregation.IMTLG(),
    "config": lambda tasks: aggregation.ConFIG(),
    "graddrop": lambda tasks: aggregation.GradDrop(),
}
SPECS = {spec.name: spec for spec in hft_combiners() if spec.per_task_gradients}


def build(name: str, tasks: int, **options: object) -> Combiner:
    spec = SPECS[name]
    combiner: Combiner = load(spec.factory)(load(spec.options)(**options), tasks=[f"t{i}" for i in range(tasks)])
    return combiner


def jacobian(rows: int, size: int, seed: int) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conflicting(rows: int, seed: int) -> Tensor:
    """`[rows, 6]`: gradients of which some two have a negative product."""
    for attempt in range(100):
        gradients = jacobian(rows, 6, 1000 * seed + attempt)
        if bool((gradients @ gradients.T < 0).any()):
            return gradients
    raise AssertionError("no conflict was drawn")


def combined(combiner: Combiner, gradients: Tensor, present: Tensor | None = None) -> Tensor:
    rows = len(gradients)
    factors = combiner.weigh(gradients, torch.ones(rows), torch.arange(rows) if present is None else present)
    assert factors.shape in {(rows,), gradients.shape}
    return (factors.reshape(rows, -1) * gradients).sum(dim=0)


def aggregate(reference: Aggregator, gradients: Tensor) -> Tensor:
    with warnings.catch_warnings():  # torchjd's NashMTL has cvxpy warn of its problem's form
        warnings.simplefilter("ignore")
        found: Tensor = reference(gradients)
    return found


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_every_combiner_of_gradients_has_its_reference() -> None:
    assert set(SPECS) == {*REFERENCES, "gradnorm"}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("rows", [2, 3, 5])
def test_equals_torchjd_on_the_same_jacobians_step_after_step(name: str, rows: int) -> None:
    combiner, reference = build(name, rows), REFERENCES[name](rows)
    for step in range(4):
        gradients = jacobian(rows, 40, step)
        torch.manual_seed(step)
        found = combined(combiner, gradients)
        torch.manual_seed(step)
        assert difference(found, aggregate(reference, gradients)) < 1e-6


@pytest.mark.parametrize("name", REFERENCES)
def test_equals_torchjd_in_single_precision(name: str) -> None:
    combiner, reference = build(name, 3), REFERENCES[name](3)
    gradients = jacobian(3, 40, 5).float()
    torch.manual_seed(0)
    found = combined(combiner, gradients)
    torch.manual_seed(0)
    assert difference(found, aggregate(reference, gradients)) < 2e-6


@pytest.mark.parametrize(("max_norm", "every"), [(0.0, 1), (1.0, 2), (0.0, 3)])
def test_equals_torchjd_nash_mtl_when_weights_are_kept_for_some_steps(max_norm: float, every: int) -> None:
    combiner = build("nash-mtl", 3, max_norm=max_norm, update_weights_every=every)
    reference = aggregation.NashMTL(n_tasks=3, max_norm=max_norm, update_weights_every=every)
    for step in range(6):
        gradients = jacobian(3, 40, step)
        assert difference(combined(combiner, gradients), aggregate(reference, gradients)) < 1e-6


@pytest.mark.parametrize("name", REFERENCES)
def test_small_gradients_are_combined_as_large_ones_are(name: str) -> None:
    gradients = conflicting(3, 1)
    directions = []
    for scale in (1.0, 1e-6):
        torch.manual_seed(0)
        found = combined(build(name, 3), scale * gradients)
        directions.append(found / found.norm())
    torch.testing.assert_close(directions[0], directions[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted({*SPECS} - {"cagrad", "nash-mtl", "fairgrad"}))
def test_one_task_alone_gets_its_own_gradient(name: str) -> None:
    gradients = jacobian(1, 10, 0)
    torch.testing.assert_close(combined(build(name, 3), gradients, torch.tensor([1])), gradients[0])


def test_one_task_alone_gets_its_own_gradient_at_another_length_where_the_method_sets_it() -> None:
    gradients, present = jacobian(1, 10, 0), torch.tensor([1])
    norm = float(gradients.norm())
    for name, length in (("cagrad", 1.5 * norm), ("nash-mtl", 1.0), ("fairgrad", norm ** (-1 / 3))):
        torch.testing.assert_close(combined(build(name, 3), gradients, present), gradients[0] * (length / norm))


# --- what each paper claims


@pytest.mark.parametrize("name", ["upgrad", "dualproj", "mgda"])
def test_the_combined_gradient_conflicts_with_no_tasks(name: str) -> None:
    for seed in range(10):
        gradients = conflicting(4, seed)
        found = combined(build(name, 4), gradients)
        # torchjd regularizes the projections' Gramian by 1e-4 of its trace, and stops Frank-Wolfe early.
        assert float((gradients @ found).min()) > -0.02 * float(found.norm() * gradients.norm())


def test_upgrad_differs_from_the_mean_where_gradients_conflict_and_is_it_where_they_do_not() -> None:
    gradients = conflicting(2, 0)
    assert difference(combined(build("upgrad", 2), gradients), gradients.mean(dim=0)) > 0.01
    friendly = gradients[0] + 0.1 * gradients
    torch.testing.assert_close(combined(build("upgrad", 2), friendly), friendly.mean(dim=0))


def test_imtl_g_has_the_same_projection_on_every_gradient_and_weights_that_sum_to_one() -> None:
    for seed in range(10):
        gradients = conflicting(3, seed)
        weights = build("imtl-g", 3).weigh(gradients, torch.ones(3), torch.arange(3))
        projections = torch.nn.functional.normalize(gradients) @ (weights @ gradients)
        torch.testing.assert_close(projections, projections.mean().expand(3))
        assert float(weights.sum()) == pytest.approx(1)


def test_config_has_the_same_positive_cosine_with_every_gradient() -> None:
    for seed in range(10):
        gradients = conflicting(3, seed)
        found = combined(build("config", 3), gradients)
        cosines = torch.nn.functional.normalize(gradients) @ found / found.norm()
        torch.testing.assert_close(cosines, cosines.mean().expand(3))
        assert float(cosines[0]) > 0
        assert float(found.norm()) == pytest.approx(float((gradients @ found).sum() / found.norm()))


def test_aligned_mtl_gives_the_gradients_matrix_equal_singular_values() -> None:
    gradients = conflicting(3, 0)
    left, values, right = torch.linalg.svd(gradients, full_matrices=False)
    aligned = values.min() * left @ right
    torch.testing.assert_close(combined(build("aligned-mtl", 3), gradients), aligned.mean(dim=0))
    aligned = values.square().mean().sqrt() * left @ right
    torch.testing.assert_close(combined(build("aligned-mtl", 3, scale_mode="rmse"), gradients), aligned.mean(dim=0))


def test_mgda_is_no_longer_than_any_convex_combination() -> None:
    for seed in range(5):
        gradients = conflicting(3, seed)
        found = combined(build("mgda", 3), gradients)
        for weights in torch.distributions.Dirichlet(torch.ones(3, dtype=torch.float64)).sample((50,)):
            assert float(found.norm()) <= 1.01 * float((weights @ gradients).norm())


def test_cagrad_stays_near_the_mean_and_serves_the_worst_task_better() -> None:
    for seed in range(10):
        gradients = conflicting(3, seed)
        mean, found = gradients.mean(dim=0), combined(build("cagrad", 3, c=0.4), gradients)
        assert float((found - mean).norm()) == pytest.approx(0.4 * float(mean.norm()), rel=1e-4)
        assert float((gradients @ found).min()) >= float((gradients @ mean).min())


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_fairgrad_solves_its_equation_at_any_scale(alpha: float, scale: float) -> None:
    gradients = scale * conflicting(3, 2)
    weights = build("fairgrad", 3, alpha=alpha).weigh(gradients, torch.ones(3), torch.arange(3))
    torch.testing.assert_close(gradients @ gradients.T @ weights, weights ** (-1 / alpha), rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_nash_mtl_solves_the_bargain_and_limits_its_norm(scale: float) -> None:
    gradients = scale * conflicting(3, 2)
    weights = build("nash-mtl", 3, max_norm=0).weigh(gradients, torch.ones(3), torch.arange(3))
    torch.testing.assert_close(gradients @ gradients.T @ weights, 1 / weights, rtol=1e-4, atol=0)
    assert float((weights @ gradients).norm()) == pytest.approx(math.sqrt(3), rel=1e-4)
    limited = build("nash-mtl", 3).weigh(gradients, torch.ones(3), torch.arange(3))
    torch.testing.assert_close(limited, weights / math.sqrt(3), rtol=1e-4, atol=0)


def test_graddrop_keeps_one_sign_a_component_the_larger_one_more_often() -> None:
    gradients = torch.tensor([[3.0, 1.0, 2.0], [-1.0, 1.0, -2.0]])
    combiner = build("graddrop", 2)
    kept = []
    for seed in range(400):
        torch.manual_seed(seed)
        factors = combiner.weigh(gradients, torch.ones(2), torch.arange(2))
        assert set(factors.flatten().tolist()) <= {0.0, 1.0}
        assert factors[:, 0].sum() == 1 and factors[:, 1].sum() == 2 and factors[:, 2].sum() == 1
        kept.append(factors[0])
    shares = torch.stack(kept).mean(dim=0)
    assert float(shares[0]) == pytest.approx(0.75, abs=0.07)
    assert float(shares[2]) == pytest.approx(0.5, abs=0.08)


def test_pcgrad_of_two_tasks_conflicts_with_neither() -> None:
    for seed in range(10):
        gradients = conflicting(2, seed)
        one, two = gradients
        expected = (one - (one @ two) / (two @ two) * two) + (two - (two @ one) / (one @ one) * one)
        found = combined(build("pcgrad", 2), gradients)
        torch.testing.assert_close(found, expected)
        assert float((gradients @ found).min()) > -1e-9


def test_gradvac_turns_a_gradient_until_its_cosine_is_the_usual_one() -> None:
    combiner = build("gradvac", 2, beta=1.0)
    usual = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    torch.testing.assert_close(combined(combiner, usual), usual.sum(dim=0))  # above 0, the first target: left alone
    now = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(combined(combiner, now), now.sum(dim=0) * 1.75, rtol=1e-6, atol=1e-6)


def test_gradvac_of_gradients_that_used_to_be_the_same_takes_no_endless_step() -> None:
    combiner = build("gradvac", 2)
    same = jacobian(1, 10, 0).float().repeat(2, 1)
    for _ in range(40):
        torch.testing.assert_close(combined(combiner, same), same.sum(dim=0))
    weights = combiner.weigh(same + 0.01 * jacobian(2, 10, 1).float(), torch.ones(2), torch.arange(2))
    assert weights.tolist() == pytest.approx([1, 1], abs=0.2)
    weights = combiner.weigh(jacobian(2, 10, 2).float(), torch.ones(2), torch.arange(2))
    assert float(weights.max()) < 60


# --- state and absence


def test_gradvac_keeps_a_pairs_average_while_one_of_the_two_is_absent() -> None:
    combiner = build("gradvac", 3)
    assert isinstance(combiner, gradvac.GradientVaccine)
    combined(combiner, jacobian(3, 10, 0))
    before = combiner.phi.clone()
    combined(combiner, jacobian(2, 10, 1), torch.tensor([0, 2]))
    changed = combiner.phi != before
    assert changed[0, 2] and changed[2, 0] and int(changed.sum()) == 2


def test_nash_mtl_keeps_an_absent_tasks_weight_and_solves_for_a_new_one_at_once() -> None:
    combiner = build("nash-mtl", 3, update_weights_every=10)
    assert isinstance(combiner, nash_mtl.NashBargaining)
    combined(combiner, jacobian(2, 10, 0), torch.tensor([0, 2]))
    before = combiner.weights.clone()
    assert before[1] == 0 and before[0] > 0 and before[2] > 0
    combined(combiner, jacobian(2, 10, 1), torch.tensor([1, 2]))
    assert combiner.weights[0] == before[0] and combiner.weights[1] > 0


def gradnorm_by_the_paper(
    gradients: list[Tensor], losses: list[list[float]], alpha: float, lr: float
) -> list[list[float]]:
    """Algorithm 1 of Chen et al. 2018 written down step by step, the gradient of its loss by autograd."""
    weights = torch.ones(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=lr)
    used = []
    for step, rows in enumerate(gradients):
        used.append(weights.tolist())
        norms = torch.stack([(weights[i] * rows[i]).norm() for i in range(3)])
        ratios = [losses[step][i] / losses[0][i] for i in range(3)]
        rates = [ratio / (sum(ratios) / 3) for ratio in ratios]
        targets = torch.tensor([float(norms.detach().mean()) * rate**alpha for rate in rates], dtype=torch.float64)
        adam.zero_grad()
        (norms - targets).abs().sum().backward()
        adam.step()
        with torch.no_grad():
            weights *= 3 / weights.sum()
    return used


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
def test_equals_the_gradnorm_papers_algorithm(alpha: float) -> None:
    gradients = [torch.tensor([[1.0], [3.0], [0.2]]).double() * jacobian(3, 12, step) for step in range(8)]
    losses = [[2.0 * 0.9**step, 0.5 * 0.99**step, 1.0 * 0.7**step] for step in range(8)]
    expected = gradnorm_by_the_paper(gradients, losses, alpha, lr=0.05)
    combiner = build("gradnorm", 3, alpha=alpha, lr=0.05)
    for step, rows in enumerate(gradients):
        now, present = torch.tensor(losses[step]), torch.arange(3)
        weights = combiner.weigh(rows, now, present)
        torch.testing.assert_close(weights, torch.tensor(expected[step], dtype=torch.float64), rtol=1e-5, atol=1e-6)
        combiner.step_finished(now, present)
    assert max(abs(w - 1) for w in expected[-1]) > 0.1


def test_gradnorm_brings_the_weighted_gradients_to_one_norm_on_shared_and_own_parameters() -> None:
    combiner = build("gradnorm", 2, alpha=0)
    assert combiner.weighs_heads
    gradients, losses, present = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.ones(2), torch.arange(2)
    for _ in range(200):
        combiner.weigh(gradients, losses, present)
        combiner.step_finished(losses, present)
    norms = combiner.weigh(gradients, losses, present) * gradients.norm(dim=1)
    assert float(norms[0]) == pytest.approx(float(norms[1]), rel=0.1)


def test_gradnorm_does_not_touch_an_absent_task_and_keeps_the_sum_of_the_weights() -> None:
    combiner = build("gradnorm", 3)
    assert isinstance(combiner, gradnorm.GradNorm)
    for step in range(5):
        present = torch.tensor([0, 2])
        combiner.weigh(jacobian(2, 10, step), torch.tensor([1.0, 2.0]), present)
        combiner.step_finished(torch.tensor([1.0, 2.0 - 0.3 * step]), present)
    assert combiner.weights[1] == 1 and combiner.adam.steps.tolist() == [5, 0, 5]
    assert combiner.first_losses.tolist() == [1.0, 0.0, 2.0]
    assert float(combiner.weights[0] + combiner.weights[2]) == pytest.approx(2)
    assert combiner.weights[0] != 1
