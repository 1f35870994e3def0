"""The combiner's numbers, against the paper's algorithm written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from hft_db_mtl.combiner import DualBalancing, Options, build

TASKS = ("a", "b", "c")
WIDTH, STEPS = 40, 12


def combiner(**options: object) -> DualBalancing:
    return build(Options.model_validate(options), tasks=TASKS)


def stream(
    seed: int = 0, absent: Callable[[int], int | None] = lambda step: None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Gradients `[t, WIDTH]`, losses `[t]` and the present tasks of some steps; task c is far larger than a."""
    random = torch.Generator().manual_seed(seed)
    scales = torch.tensor([0.01, 1.0, 50.0])
    for step in range(STEPS):
        gradients = torch.randn(3, WIDTH, generator=random) * scales.unsqueeze(1)
        losses = (torch.rand(3, generator=random) + 0.2) * scales
        present = torch.tensor([t for t in range(3) if t != absent(step)])
        yield gradients[present], losses[present], present


def combined(of: DualBalancing, gradients: Tensor, losses: Tensor, present: Tensor) -> Tensor:
    """`[p]`: what the core makes of the factors."""
    factors = of.weigh(gradients, losses, present)
    return factors @ gradients if factors.ndim == 1 else (factors * gradients).sum(dim=0)


class Paper:
    """Algorithm 1, gradient by gradient, in double precision."""

    def __init__(self, beta: float, beta_sigma: float) -> None:
        self.beta, self.beta_sigma = beta, beta_sigma
        self.averages = [torch.zeros(WIDTH, dtype=torch.float64) for _ in TASKS]
        self.steps = [0 for _ in TASKS]

    def step(self, gradients: Tensor, losses: Tensor, present: Sequence[int]) -> Tensor:
        for gradient, loss, task in zip(gradients.double(), losses.double(), present, strict=True):
            self.steps[task] += 1
            share = self.beta / self.steps[task] ** self.beta_sigma
            of_log = gradient / (loss + 1e-8)
            self.averages[task] = share * self.averages[task] + (1 - share) * of_log
        longest = max(float(self.averages[task].norm()) for task in present)
        return sum(
            (longest / (self.averages[task].norm() + 1e-8) * self.averages[task] for task in present), torch.zeros(())
        )


@pytest.mark.parametrize("absent", [lambda step: None, lambda step: step % 3 if step % 2 else None])
@pytest.mark.parametrize(("beta", "beta_sigma"), [(0.9, 0.0), (0.9, 0.5), (0.3, 1.0), (0.0, 0.0)])
def test_equals_algorithm_1(beta: float, beta_sigma: float, absent: Callable[[int], int | None]) -> None:
    ours, paper = combiner(beta=beta, beta_sigma=beta_sigma), Paper(beta, beta_sigma)
    for gradients, losses, present in stream(absent=absent):
        expected = paper.step(gradients, losses, present.tolist())
        found = combined(ours, gradients, losses, present).double()
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_without_memory_all_weighted_gradients_have_the_length_of_the_longest_log_gradient() -> None:
    ours = combiner(beta=0)
    for gradients, losses, present in stream():
        factors = ours.weigh(gradients, losses, present)
        longest = (gradients / losses.unsqueeze(1)).norm(dim=1).max()
        torch.testing.assert_close((factors.unsqueeze(1) * gradients).norm(dim=1), longest.expand(3), rtol=1e-4, atol=0)
    assert ours.averages.numel() == 0


@pytest.mark.parametrize("at", ["shared", "representation"])
def test_the_scale_of_a_tasks_loss_does_not_matter(at: str) -> None:
    ours, other = combiner(at=at), combiner(at=at)
    scale = torch.tensor([1.0, 1000.0, 0.1])
    for gradients, losses, present in stream():
        one = combined(ours, gradients, losses, present)
        two = combined(other, gradients * scale.unsqueeze(1), losses * scale, present)
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


def test_at_the_representation_the_averages_decide_the_lengths_only() -> None:
    ours, paper = combiner(at="representation"), Paper(0.9, 0.0)
    for gradients, losses, present in stream():
        paper.step(gradients, losses, present.tolist())
        lengths = torch.stack([average.norm() for average in paper.averages]).float()
        factors = ours.weigh(gradients, losses, present)
        torch.testing.assert_close(factors, lengths.max() / lengths / losses, rtol=1e-4, atol=0)


def test_what_is_remembered_waits_where_no_task_has_a_gradient() -> None:
    ours = combiner()
    steps = list(stream())
    for gradients, losses, present in steps[:-1]:
        ours.weigh(gradients, losses, present)
    gradients, losses, present = steps[-1]
    gradients[:, 3] = 0
    found = combined(ours, gradients, losses, present)
    assert float(found[3]) == 0
    assert bool((found[torch.arange(WIDTH) != 3] != 0).all())
    assert bool((ours.averages[:, 3] != 0).all())


def test_an_absent_task_keeps_its_average_and_moves_nothing() -> None:
    ours = combiner()
    steps = list(stream())
    for step in steps[:3]:
        ours.weigh(*step)
    kept = ours.averages[1].clone()
    gradients, losses, _ = steps[3]
    there = torch.tensor([0, 2])
    with_two = combined(ours, gradients[there], losses[there], there)
    assert torch.equal(ours.averages[1], kept)
    assert ours.steps.tolist() == [4, 3, 4]
    along = torch.linalg.lstsq(ours.averages[there].T, with_two.unsqueeze(1))
    torch.testing.assert_close(ours.averages[there].T @ along.solution, with_two.unsqueeze(1), rtol=1e-4, atol=1e-4)


def test_other_parameters_begin_anew() -> None:
    ours, fresh = combiner(), combiner()
    steps = list(stream())
    for step in steps[:3]:
        ours.weigh(*step)
    gradients, losses, present = steps[3]
    wider = torch.cat([gradients, gradients[:, :5]], dim=1)
    torch.testing.assert_close(ours.weigh(wider, losses, present), fresh.weigh(wider, losses, present))
    assert ours.averages.shape == (3, WIDTH + 5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_not_remembered(value: float) -> None:
    ours, undisturbed = combiner(), combiner()
    for gradients, losses, present in stream():
        ours.weigh(gradients, losses, present)
        undisturbed.weigh(gradients, losses, present)
        odd, odd_losses = gradients.clone(), losses.clone()
        odd[1, 7] = odd_losses[2] = value
        ours.weigh(odd, losses, present)
        ours.weigh(gradients, odd_losses, present)
        assert torch.equal(ours.averages, undisturbed.averages)
        assert torch.equal(ours.steps, undisturbed.steps)


def test_a_loss_without_a_logarithm_moves_nothing_and_breaks_nothing() -> None:
    ours = combiner()
    for gradients, losses, present in stream():
        losses[0], losses[1] = 0.0, -0.5
        found = combined(ours, gradients, losses, present)
        cosine = torch.cosine_similarity(found, ours.averages[2], dim=0)
        assert float(cosine) == pytest.approx(1, abs=1e-4)


def test_no_gradient_at_all_gives_no_gradient() -> None:
    ours = combiner()
    for _, losses, present in stream():
        factors = ours.weigh(torch.zeros(3, WIDTH), losses, present)
        assert bool(torch.isfinite(factors).all())


def test_state_of_any_size_is_loaded() -> None:
    ours, other, none = combiner(), combiner(), combiner()
    steps = list(stream())
    for step in steps[:4]:
        ours.weigh(*step)
    other.load_state_dict(ours.state_dict())
    for step in steps[4:]:
        assert torch.equal(ours.weigh(*step), other.weigh(*step))
    other.load_state_dict(none.state_dict())
    assert torch.equal(other.weigh(*steps[0]), none.weigh(*steps[0]))
