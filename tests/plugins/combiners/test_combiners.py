from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchjd import scalarization
from torchjd.scalarization import STCH, UW, GeometricMean, Random

from hft_core.combiner import Combiner, weights_of
from hft_core.errors import PluginError
from hft_plugins.combiners.gradient_aggregation.adam import Adam
from hft_plugins.combiners.loss_weighting import (
    coba,
    dwa,
    famo,
    geometric_mean,
    imtl_l,
    rlw,
    stch,
    uncertainty,
    weighted,
)
from hft_plugins.combiners.loss_weighting import sum as summed

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


def test_an_option_for_a_task_that_is_not_in_the_stage_is_refused() -> None:
    tasks = ("topic", "language")
    with pytest.raises(PluginError, match=r"'weighted': weights\.topik: .*Did you mean 'topic'\?"):
        weighted.build(weighted.Options(weights={"topik": 2.0}), tasks=tasks)
    with pytest.raises(PluginError, match=r"'stch': weights\.topik: .*Did you mean 'topic'\?"):
        stch.build(stch.Options(weights={"topik": 2.0}), tasks=tasks)
    with pytest.raises(PluginError, match=r"'famo': min_losses\.topik: .*Did you mean 'topic'\?"):
        famo.build(famo.Options(min_losses={"topik": 2.0}), tasks=tasks)


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


def test_imtl_l_equals_its_formula() -> None:
    combiner = imtl_l.build(imtl_l.Options(), tasks=TASKS)
    assert weights_of(combiner, LOSSES, ALL).tolist() == [1.0, 1.0, 1.0]
    s = set_to(combiner, [0.3, -1.0, 2.0])
    value = combiner(LOSSES, ALL)
    torch.testing.assert_close(value, (torch.exp(s) * LOSSES - s).sum())
    value.backward()
    torch.testing.assert_close(s.grad, torch.exp(s.detach()) * LOSSES - 1)
    s.grad = None
    present = torch.tensor([0, 2])
    combiner(LOSSES[present], present).backward()
    assert s.grad[1] == 0 and s.grad[0] != 0


def test_rlw_equals_torchjd_and_draws_weights_for_the_tasks_that_are_there() -> None:
    combiner = rlw.build(rlw.Options(), tasks=TASKS)
    torch.manual_seed(3)
    found = combiner(LOSSES, ALL)
    torch.manual_seed(3)
    assert torch.equal(found, Random()(LOSSES))
    torch.manual_seed(3)
    normal = torch.randn(2)
    torch.manual_seed(3)
    weights = weights_of(combiner, LOSSES[:2], torch.tensor([0, 2]))
    torch.testing.assert_close(weights, torch.exp(normal) / torch.exp(normal).sum())


def test_geometric_mean_equals_its_formula_and_torchjd() -> None:
    combiner = geometric_mean.build(geometric_mean.Options(), tasks=TASKS)
    found = combiner(LOSSES, ALL)
    assert float(found) == pytest.approx((0.7 * 2.5 * 0.1) ** (1 / 3))
    assert torch.equal(found, GeometricMean()(LOSSES))
    torch.testing.assert_close(weights_of(combiner, LOSSES, ALL), found / (3 * LOSSES))
    present = torch.tensor([1, 2])
    assert float(combiner(LOSSES[present], present)) == pytest.approx((2.5 * 0.1) ** 0.5)


@pytest.mark.parametrize("losses", [[0.0, 1.0, 2.0], [0.0, 0.0, 0.0], [-1.0, 1.0, 2.0]])
def test_geometric_mean_of_losses_without_a_logarithm_is_finite(losses: list[float]) -> None:
    combiner = geometric_mean.build(geometric_mean.Options(), tasks=TASKS)
    weights = weights_of(combiner, torch.tensor(losses), ALL)
    assert bool(torch.isfinite(combiner(torch.tensor(losses), ALL)))
    assert bool(torch.isfinite(weights).all())


@pytest.mark.parametrize("mu", [0.1, 1.0])
def test_stch_equals_its_formula_and_torchjd(mu: float) -> None:
    combiner = stch.build(stch.Options(mu=mu, weights={"b": 2.0}), tasks=TASKS)
    shares = torch.tensor([0.25, 0.5, 0.25])
    found = combiner(LOSSES, ALL)
    assert float(found) == pytest.approx(
        mu * math.log(sum(math.exp(s * x / mu) for s, x in zip(shares, LOSSES, strict=True)))
    )
    torch.testing.assert_close(found, STCH(mu, weights=shares)(LOSSES))
    torch.testing.assert_close(weights_of(combiner, LOSSES, ALL), shares * torch.softmax(shares * LOSSES / mu, dim=0))
    one = torch.tensor([1])
    assert float(combiner(LOSSES[one], one)) == pytest.approx(2.5)


def run_epoch(combiner: Combiner, steps: list[list[float]]) -> list[list[float]]:
    """The weights of each step's losses."""
    weights = []
    for losses in steps:
        weights.append(weights_of(combiner, torch.tensor(losses), ALL).tolist())
        combiner.step_finished(torch.tensor(losses), ALL)
    combiner.epoch_finished()
    return weights


def test_equals_the_dwa_papers_formula_and_torchjd() -> None:
    combiner = dwa.build(dwa.Options(temperature=0.5), tasks=TASKS)
    reference = scalarization.DWA(temperature=0.5) if hasattr(scalarization, "DWA") else None  # torchjd 0.15 has it
    random = np.random.default_rng(0)
    epochs = [random.uniform(0.2, 2, size=(4, 3)).tolist() for _ in range(5)]
    for number, epoch in enumerate(epochs):
        expected = [1.0, 1.0, 1.0]
        if number >= 2:
            rates = [np.mean(epochs[number - 1], axis=0)[k] / np.mean(epochs[number - 2], axis=0)[k] for k in range(3)]
            exponentials = [math.exp(rate / 0.5) for rate in rates]
            expected = [3 * e / sum(exponentials) for e in exponentials]
        values = [float(combiner(torch.tensor(losses), ALL)) for losses in epoch]
        for weights in run_epoch(combiner, epoch):
            assert weights == pytest.approx(expected, rel=1e-5)
        if reference is not None:
            assert [float(reference(torch.tensor(losses))) for losses in epoch] == pytest.approx(values, rel=1e-5)
            reference.step()


def test_dwa_leaves_a_tasks_history_alone_in_epochs_without_it() -> None:
    combiner = dwa.build(dwa.Options(), tasks=TASKS)
    for level in (1.0, 0.5):
        run_epoch(combiner, [[level, level, 1.0]])
    before = weights_of(combiner, LOSSES, ALL)
    present = torch.tensor([0, 1])
    combiner.step_finished(torch.tensor([0.25, 0.25]), present)
    combiner.epoch_finished()
    after = weights_of(combiner, LOSSES, ALL)
    torch.testing.assert_close(after, before)  # 0.25 / 0.5 is 0.5 / 1, and c still has its 1
    torch.testing.assert_close(weights_of(combiner, LOSSES[present], present), after[present])
    assert before[2] > before[0]


def test_dwa_of_losses_that_reach_zero_is_finite() -> None:
    combiner = dwa.build(dwa.Options(), tasks=TASKS)
    for level in (1.0, 1e-38, 3.0, 0.0, 0.0, 1.0):
        run_epoch(combiner, [[level, 1.0, 1.0]])
        weights = weights_of(combiner, LOSSES, ALL)
        assert bool(torch.isfinite(weights).all()) and float(weights.sum()) == pytest.approx(3)


def famo_by_the_paper(losses: list[Tensor], after: list[Tensor], lr: float, decay: float) -> list[Tensor]:
    """Algorithm 1 of Liu et al. 2023 with Adam as in its code: the losses' weights at each step."""
    w = torch.zeros(3, requires_grad=True)
    adam = torch.optim.Adam([w], lr=lr, weight_decay=decay)
    used = []
    for now, then in zip(losses, after, strict=True):
        z = torch.softmax(w.detach(), dim=0)
        c = 1 / sum(z[i] / now[i] for i in range(3))
        used.append(torch.stack([c * z[i] / now[i] for i in range(3)]))
        delta = torch.stack([torch.log(now[i]) - torch.log(then[i]) for i in range(3)])
        adam.zero_grad()
        torch.softmax(w, dim=0).backward(delta)
        adam.step()
    return used


def test_equals_the_famo_papers_algorithm_and_torchjd() -> None:
    combiner = famo.build(famo.Options(lr=0.1, weight_decay=0.01), tasks=TASKS)
    assert combiner.losses_after_step and not combiner.linear and not list(combiner.parameters())
    torch.manual_seed(0)
    losses = [torch.rand(3) + 0.2 for _ in range(12)]
    after = [now * (1 - 0.2 * torch.rand(3)) for now in losses]
    expected = famo_by_the_paper(losses, after, 0.1, 0.01)
    reference = scalarization.FAMO(3, lr=0.1, weight_decay=0.01) if hasattr(scalarization, "FAMO") else None
    for step in range(12):
        weights = weights_of(combiner, losses[step], ALL)
        torch.testing.assert_close(weights, expected[step], rtol=1e-5, atol=1e-6)
        assert float(weights.sum()) == pytest.approx(1, rel=1e-5)
        if reference is not None:
            torch.testing.assert_close(combiner(losses[step], ALL), reference(losses[step]), rtol=1e-5, atol=1e-6)
            reference.update(after[step])
        combiner.step_finished(after[step], ALL)
    assert float((expected[-1] - expected[0] * losses[0] / losses[-1]).abs().max()) > 0.05


def test_famo_does_not_touch_an_absent_task_and_stays_finite_at_its_least_loss() -> None:
    combiner = famo.build(famo.Options(min_losses={"a": 0.7}), tasks=TASKS)
    present = torch.tensor([0, 2])
    for losses in (torch.tensor([0.7, 0.0]), torch.tensor([0.9, 1.0])):
        assert bool(torch.isfinite(weights_of(combiner, losses, present)).all())
        combiner.step_finished(torch.tensor([0.8, math.inf]), present)
    assert combiner.logits[1] == 0 and combiner.adam.steps.tolist() == [2, 0, 2]
    assert combiner.logits[0] != 0 and bool(torch.isfinite(combiner.logits).all())


def test_equals_torch_adam() -> None:
    found, adam = torch.ones(4), Adam(4, lr=0.1, weight_decay=0.05)
    expected = [torch.ones(1, requires_grad=True) for _ in range(4)]
    references = [torch.optim.Adam([p], lr=0.1, weight_decay=0.05) for p in expected]
    torch.manual_seed(0)
    for step in range(10):
        present = torch.tensor([0, 1, 3] if step % 2 else [1, 2])
        gradient = torch.randn(len(present))
        adam.step(found, gradient, present)
        for i, value in zip(present.tolist(), gradient, strict=True):
            expected[i].grad = value.reshape(1)
            references[i].step()
    torch.testing.assert_close(found, torch.cat(expected).detach())


def coba_by_the_paper(dev: np.ndarray, warmup: int, n: int, tau: float) -> list[np.ndarray]:
    """Section 3 of Gong et al. 2024: the weights after each measurement `[steps, tasks]` of the dev losses."""

    def softmax(x: np.ndarray) -> np.ndarray:
        exponentials = np.exp(x - x.max())
        return exponentials / exponentials.sum()

    tasks = dev.shape[1]
    ratios, slopes, weights = dev / dev[0], [], []
    for t in range(1, len(dev) + 1):
        if t <= warmup:
            weights.append(np.full(tasks, 1 / tasks))
            continue
        window = ratios[max(0, t - n) : t]
        slopes.append(np.array([np.polyfit(np.arange(len(window)), window[:, k], 1)[0] for k in range(tasks)]))
        alpha = np.array(slopes[-n:])
        rcs = softmax(tasks * alpha[-1] / np.abs(alpha[-1]).sum())
        acs = softmax(-len(alpha) * alpha[-1] / np.abs(alpha).sum(axis=0))
        steepest = alpha.max(axis=1)
        df = min(len(alpha) * softmax(-tau * len(alpha) * steepest / np.abs(steepest).sum())[-1], 1.0)
        weights.append(df * rcs + (1 - df) * acs)
    return weights


def test_equals_the_coba_papers_formulas() -> None:
    steps = np.arange(1, 31)
    noise = np.exp(0.02 * np.random.default_rng(0).standard_normal((30, 3)))
    dev = np.stack([2 * np.exp(-steps / 5), 1.5 - steps / 60, 1 - 0.3 * np.sin(steps / 6)], axis=1) * noise
    combiner = coba.build(coba.Options(warmup=4, history_length=10, tau=5.0, dev_every=2), tasks=TASKS)
    assert combiner.dev_every == 2
    for losses, expected in zip(dev, coba_by_the_paper(dev, 4, 10, 5.0), strict=True):
        combiner.dev_measured(torch.tensor(losses, dtype=torch.float32))
        found = weights_of(combiner, LOSSES, ALL)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), rtol=2e-4, atol=2e-5)
        assert float(found.sum()) == pytest.approx(1, rel=1e-5)
    present = torch.tensor([0, 2])
    torch.testing.assert_close(weights_of(combiner, LOSSES[present], present), found[present])


def test_coba_gives_the_slow_task_more_while_all_converge_and_the_diverging_one_less() -> None:
    combiner = coba.build(coba.Options(warmup=3, history_length=20), tasks=("fast", "slow"))
    both = torch.arange(2)
    for step in range(8):
        combiner.dev_measured(torch.tensor([0.7**step, 0.98**step]))
    fast, slow = weights_of(combiner, LOSSES[:2], both).tolist()
    assert slow > fast
    for step in range(20):
        combiner.dev_measured(torch.tensor([0.05, 0.9 + 0.1 * step]))
    quiet, diverging = weights_of(combiner, LOSSES[:2], both).tolist()
    assert diverging < quiet


def test_coba_keeps_an_equal_share_for_a_task_without_dev_rows() -> None:
    combiner = coba.build(coba.Options(warmup=2), tasks=TASKS)
    for step in range(6):
        combiner.dev_measured(torch.tensor([0.5**step, math.nan, 1.0 - 0.01 * step]))
    weights = weights_of(combiner, LOSSES, ALL)
    assert float(weights[1]) == pytest.approx(1 / 3) and float(weights.sum()) == pytest.approx(1)
    assert weights[0] != pytest.approx(1 / 3)
    combiner.dev_measured(torch.full((3,), math.nan))
    assert torch.equal(weights_of(combiner, LOSSES, ALL), weights)
