"""Check loss combiners with synthetic losses and gradients."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from hft_core.combiner import Combiner, weights_of
from hft_core.testing.check import Check, Failed, NotClaimed, Subject, check, expect

CHECKS: list[Check] = []
TASKS = ("a", "b", "c")
WIDTH = 12
DRAWS = 100
"""Samples over which the result of a random combiner is averaged."""
STEPS = 7


class Trial:
    """A combiner of `tasks`, called with losses `[t]` and gradients `[t, WIDTH]` as in a training step."""

    def __init__(self, subject: Subject, tasks: tuple[str, ...] = TASKS) -> None:
        torch.manual_seed(0)
        self.combiner: Combiner = subject.build(tasks=tasks)
        learned = [p for p in self.combiner.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(learned, lr=0.05, weight_decay=0.0) if learned else None

    def factors(
        self, gradients: Tensor, losses: Tensor | None = None, present: tuple[int, ...] | None = None, seed: int = 0
    ) -> Tensor:
        """Return the factors on the tasks' gradients, `[t]` or `[t, WIDTH]`."""
        losses = torch.ones(len(gradients)) if losses is None else losses
        indices = torch.tensor(range(len(gradients)) if present is None else present)
        torch.manual_seed(seed)
        if self.combiner.per_task_gradients:
            with torch.no_grad():
                return self.combiner.weigh(gradients, losses, indices)
        return weights_of(self.combiner, losses, indices)

    def combined(self, gradients: Tensor, losses: Tensor | None = None, seed: int = 0) -> Tensor:
        """Return the combined gradient of the shared parameters, `[WIDTH]`."""
        factors = self.factors(gradients, losses, seed=seed)
        return ((factors if factors.ndim == 2 else factors.unsqueeze(1)) * gradients).sum(dim=0)

    def step(self, step: int) -> Tensor:
        """Run one step of a stage and return the factors; task `b` is absent from every third step."""
        present = (0, 2) if step % 3 == 2 else (0, 1, 2)
        gradients, losses = made_up(step, len(present))
        indices = torch.tensor(present)
        factors = self.factors(gradients, losses, present, seed=step)
        if self.optimizer is not None and not self.combiner.per_task_gradients:
            self.optimizer.zero_grad(set_to_none=True)
            self.combiner(losses, indices).backward()
            self.optimizer.step()
        self.combiner.step_finished(losses * 0.9 if self.combiner.losses_after_step else losses, indices)
        if self.combiner.dev_every and step % self.combiner.dev_every == 0:
            self.combiner.dev_measured(torch.tensor([1.0, 0.5, float("nan")]) / (step + 1))
        if step % 3 == 2:
            self.combiner.epoch_finished()
        return factors


def made_up(seed: int, tasks: int = len(TASKS)) -> tuple[Tensor, Tensor]:
    """Make gradients `[tasks, WIDTH]`, some of which conflict, and positive losses `[tasks]`."""
    random = torch.Generator().manual_seed(seed)
    scales = torch.tensor([[1.0], [0.3], [2.0]])[:tasks]
    return torch.randn(tasks, WIDTH, generator=random) * scales, torch.rand(tasks, generator=random) + 0.2


@check("combiner", CHECKS)
def its_facts_are_those_of_the_spec(subject: Subject) -> None:
    """`per_task_gradients` of combiner and spec are equal, and `at` is 'shared' or 'representation'."""
    combiner = Trial(subject).combiner
    claimed, found = subject.spec.per_task_gradients, combiner.per_task_gradients
    expect(found == claimed, f"per_task_gradients={claimed}, as the spec says", found)
    expect(combiner.tasks == TASKS, f"the tasks {TASKS}", combiner.tasks)
    expect(combiner.at in ("shared", "representation"), "at: 'shared' or 'representation'", combiner.at)


@check("combiner", CHECKS)
def factors_are_one_a_task(subject: Subject) -> None:
    """There is one factor for each present task, or for each component of its gradient; inputs are not modified."""
    trial = Trial(subject)
    gradients, losses = made_up(1)
    given = gradients.clone(), losses.clone()
    factors = trial.factors(gradients, losses)
    wanted = [(3,), (3, WIDTH)] if trial.combiner.per_task_gradients else [(3,)]
    expect(tuple(factors.shape) in wanted, f"the shape {' or '.join(map(str, wanted))}", tuple(factors.shape))
    expect(bool(torch.isfinite(factors).all()), "finite factors", factors.tolist())
    untouched = torch.equal(given[0], gradients) and torch.equal(given[1], losses)
    expect(untouched, "gradients and losses that are left as they were", "that they were changed in place")


@check("combiner", CHECKS)
def equal_random_numbers_give_equal_factors(subject: Subject) -> None:
    """Factors are equal for equal seeds of torch's generator, and so on every process."""
    gradients, losses = made_up(1)
    first, second = (Trial(subject).factors(gradients, losses, seed=3) for _ in range(2))
    expect(torch.equal(first, second), "equal factors from equal seeds", f"{first.tolist()} and {second.tolist()}")


@check("combiner", CHECKS)
def one_task_keeps_its_direction(subject: Subject) -> None:
    """With one task, or one present of three, the combined gradient is a positive multiple of the task's own."""
    gradients, losses = made_up(1, 1)
    for tasks, present in ((("a",), (0,)), (TASKS, (1,))):
        factors = Trial(subject, tasks).factors(gradients, losses, present)
        factor = factors.reshape(-1)
        same = torch.allclose(factor, factor[0].expand_as(factor), rtol=1e-4)
        alone = f"one positive factor for a task alone (of {len(tasks)})"
        expect(bool((factor > 0).all()) and bool(torch.isfinite(factor).all()) and same, alone, factors.tolist())


@check("combiner", CHECKS)
def the_order_of_tasks_does_not_matter(subject: Subject) -> None:
    """The combined gradient does not depend on the order of tasks; that of a random combiner on average."""
    gradients, losses = made_up(2)
    reference = _mean(lambda seed: Trial(subject).combined(gradients, losses, seed))
    for order in ((1, 2, 0), (2, 1, 0)):
        tasks = tuple(TASKS[i] for i in order)
        index = list(order)

        def draw(seed: int, tasks: tuple[str, ...] = tasks, index: list[int] = index) -> Tensor:
            return Trial(subject, tasks).combined(gradients[index], losses[index], seed)

        mean, error = _mean(draw)
        allowed = 5 * (error + reference[1]) + 2e-3 * float(reference[0].abs().max())
        difference = float(((mean - reference[0]).abs() / allowed).max())
        expect(
            difference <= 1,
            f"the same gradient with the tasks as {tasks}",
            f"{mean.tolist()}, not {reference[0].tolist()}",
        )


def _mean(draw: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and standard error over draws; one draw suffices if the seed makes no difference."""
    first = draw(0)
    if all(torch.equal(first, draw(seed)) for seed in range(1, 5)):
        return first, torch.zeros_like(first)
    drawn = torch.stack([draw(seed) for seed in range(DRAWS)])
    return drawn.mean(dim=0), drawn.std(dim=0) / DRAWS**0.5


@check("combiner", CHECKS)
def the_scale_of_all_gradients_does_not_turn_the_result(subject: Subject) -> None:
    """For combiners of gradients: scaling all gradients by 100 or 0.01 does not change the direction of the result."""
    if not subject.spec.per_task_gradients:
        raise NotClaimed("a combiner of losses")
    gradients, losses = made_up(3)
    reference = Trial(subject).combined(gradients, losses)
    for factor in (100.0, 0.01):
        cosine = torch.cosine_similarity(reference, Trial(subject).combined(gradients * factor, losses), dim=0)
        expect(
            float(cosine) > 0.999,
            f"the same direction for gradients times {factor}",
            f"a cosine of {float(cosine):.4f}",
        )


@check("combiner", CHECKS)
def linear_means_that_weights_do_not_depend_on_losses(subject: Subject) -> None:
    """The weights of a combiner of losses with `linear` do not depend on the losses."""
    trial = Trial(subject)
    if trial.combiner.per_task_gradients or not trial.combiner.linear:
        raise NotClaimed("the combiner is not linear in the losses")
    gradients, losses = made_up(1)
    one, other = trial.factors(gradients, losses), trial.factors(gradients, losses**2 + 1)
    expect(
        torch.allclose(one, other), "weights that do not depend on the losses", f"{one.tolist()} and {other.tolist()}"
    )


@check("combiner", CHECKS)
def products_are_all_it_goes_by_where_it_says_so(subject: Subject) -> None:
    """With `by_products`, the factors depend on the Gramian of the gradients only, one for each task."""
    if not (Trial(subject).combiner.per_task_gradients and Trial(subject).combiner.by_products):
        raise NotClaimed("the combiner does not say by_products")
    for seed in range(3):
        gradients, losses = made_up(seed)
        turned = torch.linalg.cholesky(gradients @ gradients.T)
        one, other = (Trial(subject).factors(given, losses) for given in (gradients, turned))
        same = one.shape == other.shape == (3,) and torch.allclose(one, other, rtol=1e-2, atol=1e-3)
        expect(same, "the same factors for the same products", f"{one.tolist()} and {other.tolist()}")


def _extremes() -> Iterator[tuple[str, Tensor, Tensor]]:
    gradients, losses = made_up(4)
    yield "zeros", torch.zeros_like(gradients), torch.zeros_like(losses)
    yield "one zero gradient", gradients * torch.tensor([[0.0], [1.0], [1.0]]), losses
    yield "values of 1e6", gradients * 1e6, losses * 1e6
    yield "values of 1e-6", gradients * 1e-6, losses * 1e-6
    yield "equal values", gradients[:1].repeat(3, 1), losses[:1].repeat(3)
    yield "opposite gradients", torch.stack([gradients[0], -gradients[0], gradients[0]]), losses


@check("combiner", CHECKS)
def results_stay_finite(subject: Subject) -> None:
    """Factors and state are finite for zeros, values of 1e6 and 1e-6, and equal and opposite gradients."""
    for name, gradients, losses in _extremes():
        trial = Trial(subject)
        for step in range(3):
            factors = trial.factors(gradients, losses)
            expect(bool(torch.isfinite(factors).all()), f"finite factors on {name} (step {step + 1})", factors.tolist())
            trial.combiner.step_finished(losses, torch.arange(3))
        odd = [n for n, t in trial.combiner.state_dict().items() if t.is_floating_point() and t.isnan().any()]
        expect(not odd, f"state without NaN on {name}", f"NaN in {', '.join(odd)}")


@check("combiner", CHECKS)
def tasks_that_agree_get_their_mean(subject: Subject) -> None:
    """Equal gradients with equal losses combine to a positive multiple of their mean."""
    gradients = made_up(5, 1)[0].repeat(3, 1)
    combined = Trial(subject).combined(gradients, torch.full((3,), 0.7))
    multiple = combined / gradients[0]
    same = torch.allclose(multiple, multiple.mean().expand_as(multiple), rtol=1e-3)
    expect(same and bool((multiple > 0).all()), "a positive multiple of the mean", f"multiples {multiple.tolist()}")


@check("combiner", CHECKS)
def no_task_is_worked_against(subject: Subject) -> None:
    """With the spec's `non_conflicting`, the result has no negative product with any of random gradients."""
    if not subject.spec.non_conflicting:
        raise NotClaimed("the spec says non_conflicting=False")
    for seed, tasks in itertools.product(range(20), (2, 3)):
        gradients, losses = made_up(seed, tasks)
        combined = Trial(subject, TASKS[:tasks]).combined(gradients, losses, seed)
        least = float((gradients @ combined / (gradients.norm(dim=1) * combined.norm().clamp(min=1e-12))).min())
        expect(least >= -1e-3, f"no negative product ({tasks} tasks, draw {seed})", f"a cosine of {least:.4f}")


@check("combiner", CHECKS)
def an_absent_task_is_left_out(subject: Subject) -> None:
    """A step without a task has factors for the others only, and does not update what is learned of the absent one."""
    trial = Trial(subject)
    for step in range(STEPS):
        factors = trial.step(step)
        present = 2 if step % 3 == 2 else 3
        expect(len(factors) == present, f"{present} factors in a step with {present} tasks", len(factors))
        expect(bool(torch.isfinite(factors).all()), f"finite factors in step {step + 1}", factors.tolist())
    if trial.combiner.per_task_gradients or trial.optimizer is None:
        return
    trial.optimizer.zero_grad(set_to_none=True)
    trial.combiner(torch.tensor([0.5, 2.0]), torch.tensor([0, 2])).backward()
    for name, p in trial.combiner.named_parameters():
        pushed = p.grad is not None and p.shape[:1] == (3,) and bool((p.grad[1] != 0).any())
        expect(not pushed, f"no gradient on what '{name}' knows of the absent task", p.grad)


@check("combiner", CHECKS)
def its_state_goes_on_where_it_was(subject: Subject) -> None:
    """A new combiner that loads the state, saved by safetensors between two steps, has equal factors from then on."""
    trial = Trial(subject)
    for step in range(STEPS):
        trial.step(step)
    again = Trial(subject)
    state = {name: tensor.detach().contiguous() for name, tensor in trial.combiner.state_dict().items()}
    again.combiner.load_state_dict(load(save(state)))
    if trial.optimizer is not None and again.optimizer is not None:
        again.optimizer.load_state_dict(_copied(trial.optimizer.state_dict()))
    for step in range(STEPS, 2 * STEPS):
        one, other = trial.step(step), again.step(step)
        expect(torch.equal(one, other), f"equal factors in step {step + 1}", f"{one.tolist()} and {other.tolist()}")


def _copied(state: Any) -> Any:
    """Copy a state through torch's file format, tensors only, as a checkpoint does."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@check("combiner", CHECKS)
def one_task_can_be_the_whole_stage(subject: Subject) -> None:
    """A stage with a single task has finite factors for three steps with their events."""
    trial = Trial(subject, ("a",))
    for step in range(3):
        gradients, losses = made_up(step, 1)
        factors = trial.factors(gradients, losses, seed=step)
        expect(bool(torch.isfinite(factors).all()), f"finite factors in step {step + 1}", factors.tolist())
        trial.combiner.step_finished(losses, torch.tensor([0]))
        trial.combiner.epoch_finished()
    if not trial.combiner.tasks:
        raise Failed("expected the combiner to know its task; found none")
