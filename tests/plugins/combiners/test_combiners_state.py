"""What every built-in combiner does with its state, with tasks that are absent and with what it needs installed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as read
from safetensors.torch import save as write
from torch import Tensor

from hft_core.combiner import Combiner, weights_of
from hft_core.plugins.catalogue import Catalogue
from hft_core.specs import CombinerSpec, load
from hft_plugins import combiners
from hft_plugins.combiners import hft_combiners

TASKS = ("a", "b", "c")
SOLVERS = {"cagrad": "cvxpy clarabel", "upgrad": "quadprog qpsolvers", "dualproj": "quadprog qpsolvers"}

every_combiner = pytest.mark.parametrize("spec", hft_combiners(), ids=lambda spec: spec.name)


def build(spec: CombinerSpec, **options: object) -> Combiner:
    combiner: Combiner = load(spec.factory)(load(spec.options)(**options), tasks=TASKS)
    return combiner


def train(combiner: Combiner, steps: range) -> Iterator[Tensor]:
    """Factors step by step, as the core asks for them; `b` is absent from some steps, what is learned moves by SGD."""
    for step in steps:
        torch.manual_seed(1000 + step)
        present = torch.tensor([0, 2] if step % 4 == 3 else [0, 1, 2])
        losses, gradients = torch.rand(len(present)) + 0.1, torch.randn(len(present), 16)
        torch.manual_seed(step)
        if combiner.per_task_gradients:
            yield combiner.weigh(gradients, losses, present)
        else:
            yield weights_of(combiner, losses, present)
        parameters = list(combiner.parameters())
        if parameters:
            for parameter, gradient in zip(
                parameters, torch.autograd.grad(combiner(losses, present), parameters), strict=True
            ):
                parameter.data -= 0.1 * gradient
        combiner.step_finished(0.9 * losses if combiner.losses_after_step else losses, present)
        if combiner.dev_every and step % combiner.dev_every == 0:
            combiner.dev_measured(torch.rand(3) + 0.1)
        if step % 5 == 4:
            combiner.epoch_finished()


@every_combiner
def test_a_combiner_goes_on_from_its_saved_state_as_if_never_stopped(spec: CombinerSpec) -> None:
    options: dict[str, Any] = {"dev_every": 1, "warmup": 3, "history_length": 8} if spec.name == "coba" else {}
    combiner, again = build(spec, **options), build(spec, **options)
    first = list(train(combiner, range(12)))
    again.load_state_dict(read(write({k: v.contiguous() for k, v in combiner.state_dict().items()})))
    expected, found = (list(train(each, range(12, 24))) for each in (combiner, again))
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    for name, tensor in combiner.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert all(bool(torch.isfinite(factors).all()) for factors in first)


@every_combiner
def test_the_shapes_of_a_combiners_state_never_change(spec: CombinerSpec) -> None:
    combiner = build(spec)
    before = {name: (tensor.shape, tensor.dtype) for name, tensor in combiner.state_dict().items()}
    list(train(combiner, range(8)))
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in combiner.state_dict().items()} == before


def test_gradients_that_are_not_finite_raise_nothing_and_leave_the_state_alone() -> None:
    for spec in hft_combiners():
        if not spec.per_task_gradients or spec.name == "gradnorm":  # which waits for the end of the step
            continue
        combiner = build(spec)
        list(train(combiner, range(2)))
        before = {name: tensor.clone() for name, tensor in combiner.state_dict().items()}
        for bad in (float("nan"), float("inf")):
            gradients = torch.randn(3, 16)
            gradients[1, 3] = bad
            factors = combiner.weigh(gradients, torch.ones(3), torch.arange(3))
            combined = (factors.reshape(3, -1) * gradients).sum(dim=0)
            assert not bool(torch.isfinite(combined).all()), spec.name
        for name, tensor in combiner.state_dict().items():
            assert torch.equal(tensor, before[name]), (spec.name, name)


@pytest.mark.parametrize(
    "case", ["zero row", "all zero", "identical", "opposed", "tiny", "huge", "far apart", "nearly identical"]
)
def test_degenerate_gradients_are_combined_into_something_finite(case: str) -> None:
    gradients = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    one, two, three = gradients
    gradients = {
        "zero row": torch.stack([one, torch.zeros(16), three]),
        "all zero": torch.zeros(3, 16),
        "identical": torch.stack([one, one, three]),
        "opposed": torch.stack([one, -one, three]),
        "tiny": 1e-15 * gradients,
        "huge": 1e15 * gradients,
        "far apart": torch.tensor([[1e-8], [1.0], [1e8]]) * gradients,
        "nearly identical": torch.stack([one, one + 1e-7 * two, three]),
    }[case]
    for spec in hft_combiners():
        if spec.per_task_gradients:
            factors = build(spec).weigh(gradients, torch.ones(3), torch.arange(3))
            combined = (factors.reshape(3, -1) * gradients).sum(dim=0)
            assert bool(torch.isfinite(combined).all()), spec.name


def test_half_precision_gradients_are_combined_in_single_precision() -> None:
    gradients = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    for spec in hft_combiners():
        if spec.per_task_gradients and spec.name not in ("graddrop", "gradnorm"):
            torch.manual_seed(0)
            factors = build(spec).weigh(gradients, torch.ones(3), torch.arange(3))
            torch.manual_seed(0)
            assert torch.equal(factors, build(spec).weigh(gradients.float(), torch.ones(3), torch.arange(3))), spec.name


def test_every_combiner_of_gradients_takes_its_gradients_where_the_recipe_says() -> None:
    for spec in hft_combiners():
        if spec.per_task_gradients:
            assert build(spec).at == "shared"
            assert build(spec, at="representation").at == "representation"
        else:
            assert "at" not in load(spec.options).model_fields


def test_a_combiner_without_its_solver_is_listed_with_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = importlib.metadata.version

    def without_solvers(name: str) -> str:
        if name in " ".join(SOLVERS.values()).split():
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", without_solvers)
    entries = {entry.name: entry for entry in Catalogue.of(combiners).entries}
    assert len(entries) == len(hft_combiners())
    for name, entry in entries.items():
        assert entry.status == (f"needs {SOLVERS[name]}" if name in SOLVERS else "ok")
        if name in SOLVERS:
            assert f"pip install '{SOLVERS[name].split()[0]}>=" in entry.reason


def test_the_reference_page_has_every_combiner_with_its_options() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "combiners.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert set(rows) == {spec.name for spec in hft_combiners()}
    for spec in hft_combiners():
        for option in set(load(spec.options).model_fields) - {"at"}:
            assert f"`{option}`" in rows[spec.name], f"{spec.name}: {option}"
        assert ("`solvers`" in rows[spec.name]) == (spec.name in SOLVERS)
