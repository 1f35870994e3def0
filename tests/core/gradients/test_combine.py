from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torchjd.aggregation import UPGrad, UPGradWeighting

from hft_core.backbone import Backbone, Features
from hft_core.batching.batch import Batch, Segment
from hft_core.combiner import Combiner
from hft_core.device.machine import Machine
from hft_core.device.precision import Precision
from hft_core.device.process_group import SingleProcess
from hft_core.gradients import combine, one_pass, shared_gradients
from hft_core.gradients.gradient_comparison import Comparison, HiddenGradient
from hft_core.gradients.jacobian import Jacobian, of_tokens_alone
from hft_core.gradients.losses import Forward
from hft_core.gradients.step_losses import Combined
from hft_core.head import Column, Draw, Encoded, Head, Targets
from hft_core.model.execution_plan import ExecutionPlan
from hft_core.model.hybrid import HybridModel
from hft_core.strategy import Strategy

HIDDEN, WORDS = 6, 11


class Trunk(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, HIDDEN)
        self.layer = nn.Linear(HIDDEN, HIDDEN)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor) -> Tensor:
        return self.dropout(torch.tanh(self.layer(self.words(ids))))  # type: ignore[no-any-return]


class SmallBackbone(Backbone):
    """A trunk of two layers; nothing is tokenized or saved."""

    hidden_size = HIDDEN

    def __init__(self, dropout: float) -> None:
        self.trunk = Trunk(dropout)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.trunk(inputs["input_ids"])  # type: ignore[no-any-return]

    layers = ()
    trunk_prefix = "trunk"
    save = save_task = load_task = None  # type: ignore[assignment]


class Sums(Head):
    """A number for each row, from the mean of its hidden states."""

    main_metric = "loss"

    def __init__(self, task: str, *, trained: bool = True) -> None:
        super().__init__(task)
        self.output = nn.Linear(HIDDEN, 1).requires_grad_(trained)

    def loss(self, features: Features, targets: Targets) -> Tensor:
        mask = features.attention_mask.unsqueeze(-1)
        pooled = (features.hidden * mask).sum(dim=1) / mask.sum(dim=1)
        wanted = targets.tensors["wanted"]
        return functional.mse_loss(self.output(pooled).squeeze(1)[: len(wanted)], wanted, reduction="sum")

    def columns(self) -> Sequence[Column]:
        return []

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> Encoded:
        raise AssertionError("batches are made by hand here")

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        raise AssertionError("batches are made by hand here")

    def attach(self, backbone: Backbone) -> None:
        raise AssertionError("made with its module")


class GeometricMean(Combiner):
    """Not linear in the losses."""

    linear = False

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        return losses.log().mean().exp()


class Learned(Combiner):
    """Weights that are learned."""

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__(tasks)
        self.scale = nn.Parameter(torch.arange(1.0, len(tasks) + 1))

    def forward(self, losses: Tensor, present: Tensor) -> Tensor:
        return (self.scale[present] * losses).sum()


class Recorded(Combiner):
    """Keeps the gradients that it is given; their combination is a weighted sum."""

    per_task_gradients = True

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__(tasks)
        self.seen: Tensor | None = None
        self.drawn: list[float] = []

    def weigh(self, gradients: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        self.seen, self.losses = gradients.clone(), losses
        self.drawn.append(float(torch.rand(())))
        return 1.0 + present.to(gradients.dtype)


MACHINE = Machine(torch.device("cpu"), Precision("fp32", "for a test", 1.0), SingleProcess())


def model_of(*tasks: str, dropout: float = 0.0, still: Sequence[str] = ()) -> HybridModel:
    torch.manual_seed(0)
    return HybridModel(SmallBackbone(dropout), {task: Sums(task, trained=task not in still) for task in tasks}).train()


def batch_of(*parts: tuple[str, list[int]], seed: int = 0, without_targets: Sequence[str] = ()) -> Batch:
    """Rows of the given lengths for each task, padded together."""
    random = np.random.default_rng(seed)
    lengths = [length for _, own in parts for length in own]
    ids = torch.from_numpy(random.integers(WORDS, size=(len(lengths), max(lengths))))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
    segments, start = [], 0
    for task, own in parts:
        count = 0 if task in without_targets else len(own)
        wanted = torch.from_numpy(random.normal(size=count).astype(np.float32))
        rows = slice(start, start + len(own))
        segments.append(Segment(task, rows, np.arange(len(own)), Targets(count, {"wanted": wanted})))
        start += len(own)
    return Batch({"input_ids": ids, "attention_mask": mask}, tuple(segments))


def divided(batch: Batch, *bounds: int) -> list[Batch]:
    """The same rows in several batches."""
    pieces = []
    for start, stop in zip((0, *bounds), (*bounds, batch.rows), strict=True):
        segments = []
        for segment in batch.segments:
            first, last = max(start, segment.rows.start), min(stop, segment.rows.stop)
            if first < last:
                wanted = segment.targets.tensors["wanted"][first - segment.rows.start : last - segment.rows.start]
                rows = slice(first - start, last - start)
                segments.append(
                    Segment(segment.task, rows, np.arange(last - first), Targets(len(wanted), {"wanted": wanted}))
                )
        pieces.append(Batch({name: tensor[start:stop] for name, tensor in batch.inputs.items()}, tuple(segments)))
    return pieces


def gradients_of(model: HybridModel) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def filled(model: HybridModel, combiner: Combiner, batches: Sequence[Batch]) -> tuple[Combined, dict[str, Tensor]]:
    combined = combine.fill(model, combiner, batches, MACHINE, draw_seed=5)
    return combined, gradients_of(model)


def assert_same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], atol=1e-6, rtol=1e-5, msg=name)


def mean_losses(model: HybridModel, batches: Sequence[Batch], tasks: Sequence[str]) -> Tensor:
    """Each task's mean loss over all batches, with its graph."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for batch in batches:
        for task, loss in Forward(model, [batch], MACHINE).sums(batch).items():
            sums[task] = sums.get(task, torch.zeros(())) + loss
        for segment in batch.segments:
            counts[segment.task] = counts.get(segment.task, 0) + segment.targets.count
    return torch.stack([sums[task] / counts[task] for task in tasks])


STEP = batch_of(("a", [3, 5, 2, 7, 1]), ("b", [4, 6]), ("c", [2, 2, 9]))


@pytest.mark.parametrize(
    "combiner", [Combiner(("a", "b", "c")), GeometricMean(("a", "b", "c")), Learned(("a", "b", "c"))]
)
@pytest.mark.parametrize("bounds", [(), (1,), (4, 6), (1, 2, 3, 4, 5, 6, 7, 8, 9)])
def test_a_step_in_any_number_of_batches_has_the_gradient_of_the_combined_mean_losses(
    combiner: Combiner, bounds: tuple[int, ...]
) -> None:
    model = model_of("a", "b", "c")
    losses = mean_losses(model, [STEP], combiner.tasks)
    combiner(losses, torch.arange(3)).backward()
    expected = gradients_of(model)
    wanted = [parameter.grad for parameter in combiner.parameters()]
    combiner.zero_grad(set_to_none=True)
    combined, found = filled(model, combiner, divided(STEP, *bounds))
    assert combined.tasks == ("a", "b", "c")
    torch.testing.assert_close(combined.losses, losses.detach())
    assert_same(found, expected)
    for parameter, gradient in zip(combiner.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    combiner.zero_grad(set_to_none=True)


def test_the_weight_of_a_loss_is_the_derivative_of_the_combination() -> None:
    model, combiner = model_of("a", "b", "c"), GeometricMean(("a", "b", "c"))
    losses = mean_losses(model, [STEP], combiner.tasks).detach()
    combined, _ = filled(model, combiner, divided(STEP, 4))
    torch.testing.assert_close(combined.weights, losses.log().mean().exp() / (3 * losses))


def test_a_combiner_not_linear_in_the_losses_sees_the_same_dropout_in_both_of_its_passes() -> None:
    model, combiner = model_of("a", "b", "c", dropout=0.5), GeometricMean(("a", "b", "c"))
    batches = divided(STEP, 4, 6)
    torch.manual_seed(3)
    combiner(mean_losses(model, batches, combiner.tasks), torch.arange(3)).backward()
    expected, after = gradients_of(model), torch.rand(1)
    torch.manual_seed(3)
    _, found = filled(model, combiner, batches)
    assert_same(found, expected)
    assert torch.equal(torch.rand(1), after), "the next step's dropout must not depend on the combiner"


def test_a_task_that_is_absent_from_the_step_or_has_no_targets_in_it_is_left_out() -> None:
    model, combiner = model_of("a", "b", "c"), Learned(("a", "b", "c"))
    batch = batch_of(("a", [3, 4]), ("c", [2]), without_targets=["a"])
    combined, found = filled(model, combiner, [batch])
    assert combined.tasks == ("c",)
    assert combined.weights.tolist() == [3.0]
    assert combiner.scale.grad is not None
    assert combiner.scale.grad.tolist() == pytest.approx([0.0, 0.0, float(combined.losses)])
    assert not any(name.startswith(("heads.a", "heads.b")) for name, tensor in found.items() if tensor.abs().sum())


@pytest.mark.parametrize("kind", [Combiner, GeometricMean, Recorded])
def test_a_step_without_any_target_moves_nothing(kind: type[Combiner]) -> None:
    model = model_of("a")
    combined, found = filled(model, kind(("a",)), [batch_of(("a", [3, 4]), without_targets=["a"])])
    assert combined.tasks == ()
    assert combined.losses.shape == combined.weights.shape == (0,)
    assert found == {}


def test_gradients_are_kept_apart_by_task_for_a_combiner_that_asks_for_them() -> None:
    model, combiner = model_of("a", "b", "c"), Recorded(("a", "b", "c"))
    one, two, three = divided(STEP, 5, 7)
    jacobian, own = [], {}
    for task, batch in (("a", one), ("b", two), ("c", three)):
        mean_losses(model, [batch], [task]).sum().backward()
        jacobian.append(torch.cat([p.grad.reshape(-1) for p in model.trunk.parameters() if p.grad is not None]))
        own |= {name: tensor for name, tensor in gradients_of(model).items() if name.startswith(f"heads.{task}")}
    combined, found = filled(model, combiner, [*divided(one, 2), two, *divided(three, 1, 2)])
    assert combiner.seen is not None
    torch.testing.assert_close(combiner.seen, torch.stack(jacobian))
    assert combined.weights.tolist() == [1.0, 2.0, 3.0]
    expected = torch.tensor([1.0, 2.0, 3.0]) @ torch.stack(jacobian)
    trunk = torch.cat([found[f"trunk.{name}"].reshape(-1) for name, _ in model.trunk.named_parameters()])
    torch.testing.assert_close(trunk, expected)
    assert_same({name: tensor for name, tensor in found.items() if name.startswith("heads")}, own)


def test_what_a_combiner_draws_is_a_function_of_the_steps_seed_and_leaves_the_dropout_alone() -> None:
    model, combiner = model_of("a", "b"), Recorded(("a", "b"))
    batches = [batch_of(("a", [3])), batch_of(("b", [2]))]
    torch.manual_seed(8)
    expected = torch.rand(2)
    torch.manual_seed(8)
    first = torch.rand(1)
    for seed in (5, 5, 6):
        combine.fill(model, combiner, batches, MACHINE, draw_seed=seed)
    assert combiner.drawn[0] == combiner.drawn[1] != combiner.drawn[2]
    assert torch.equal(torch.cat([first, torch.rand(1)]), expected)


@pytest.mark.parametrize("kind", [Combiner, GeometricMean, Recorded])
def test_a_task_of_which_nothing_trains_is_measured_and_disturbs_no_other(kind: type[Combiner]) -> None:
    model = model_of("a", "b", still=["b"])
    model.trunk.requires_grad_(False)
    combined, found = filled(model, kind(("a", "b")), [batch_of(("a", [3, 4])), batch_of(("b", [2]))])
    assert combined.tasks == ("a", "b")
    assert bool((combined.losses > 0).all())
    assert set(found) == {"heads.a.output.weight", "heads.a.output.bias"}


# --- at the representation


class AtRepresentation(Recorded):
    """Weighs by what reaches the hidden states."""

    at = "representation"


class FirstHalf(Combiner):
    """Leaves the first half of the components of each gradient alone, and takes the others away."""

    per_task_gradients = True

    def weigh(self, gradients: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        kept = torch.arange(gradients.shape[1]) < gradients.shape[1] // 2
        return kept.to(gradients.dtype).expand_as(gradients)


@pytest.mark.parametrize("bounds", [(), (4,), (2, 6), (1, 5, 7)])
def test_at_the_representation_a_step_has_the_trunk_gradient_of_the_weighted_losses_and_each_heads_own(
    bounds: tuple[int, ...],
) -> None:
    model, combiner = model_of("a", "b", "c"), AtRepresentation(("a", "b", "c"))
    losses = mean_losses(model, [STEP], combiner.tasks)
    (torch.tensor([1.0, 2.0, 3.0]) * losses).sum().backward()
    expected = {name: tensor for name, tensor in gradients_of(model).items() if name.startswith("trunk")}
    mean_losses(model, [STEP], combiner.tasks).sum().backward()
    expected |= {name: tensor for name, tensor in gradients_of(model).items() if name.startswith("heads")}
    combined, found = filled(model, combiner, divided(STEP, *bounds))
    torch.testing.assert_close(combined.losses, losses.detach())
    assert combined.weights.tolist() == [1.0, 2.0, 3.0]
    assert_same(found, expected)


@pytest.mark.parametrize("bounds", [(), (4,), (1, 5, 7)])
def test_at_the_representation_a_combiner_sees_each_tasks_gradient_summed_over_its_tokens(
    bounds: tuple[int, ...],
) -> None:
    model, combiner = model_of("a", "b", "c"), AtRepresentation(("a", "b", "c"))
    hidden = model.hidden(STEP).detach().requires_grad_()
    sums = Forward(model, [STEP], MACHINE).sums(STEP, hidden)
    means = [sums[segment.task] / segment.targets.count for segment in STEP.segments]
    wanted = torch.stack([torch.autograd.grad(mean, hidden, retain_graph=True)[0].sum(dim=(0, 1)) for mean in means])
    filled(model, combiner, divided(STEP, *bounds))
    assert combiner.seen is not None
    torch.testing.assert_close(combiner.seen, wanted)
    torch.testing.assert_close(combiner.losses, torch.stack(means).detach())


def test_at_the_representation_a_divided_step_sees_the_same_dropout_in_both_of_its_passes() -> None:
    model, combiner = model_of("a", "b", "c", dropout=0.5), AtRepresentation(("a", "b", "c"))
    batches = divided(STEP, 4, 6)
    torch.manual_seed(3)
    losses = mean_losses(model, batches, combiner.tasks)
    (torch.tensor([1.0, 2.0, 3.0]) * losses).sum().backward()
    expected = {name: tensor for name, tensor in gradients_of(model).items() if name.startswith("trunk")}
    torch.manual_seed(3)
    combined, found = filled(model, combiner, batches)
    torch.testing.assert_close(combined.losses, losses.detach())
    assert_same({name: tensor for name, tensor in found.items() if name.startswith("trunk")}, expected)


def test_factors_may_differ_from_component_to_component() -> None:
    model = model_of("a", "b")
    one, two = batch_of(("a", [3, 4])), batch_of(("b", [2]), seed=1)
    mean_losses(model, [one, two], ["a", "b"]).sum().backward()
    whole = torch.cat([p.grad.reshape(-1) for p in model.trunk.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    combined, gradient = filled(model, FirstHalf(("a", "b")), [one, two])
    found = torch.cat([gradient[f"trunk.{name}"].reshape(-1) for name, _ in model.trunk.named_parameters()])
    half = len(whole) // 2
    torch.testing.assert_close(found[:half], whole[:half])
    assert not found[half:].any()
    assert bool((combined.weights >= 0).all()) and bool((combined.weights <= 1).all())


def test_a_combiner_may_weigh_the_heads_as_well() -> None:
    class Whole(Recorded):
        weighs_heads = True

    model, combiner = model_of("a", "b"), Whole(("a", "b"))
    batches = [batch_of(("a", [3, 4])), batch_of(("b", [2]), seed=1)]
    (torch.tensor([1.0, 2.0]) * mean_losses(model, batches, ["a", "b"])).sum().backward()
    expected = gradients_of(model)
    _, found = filled(model, combiner, batches)
    assert_same(found, expected)


# --- at the representation, on the same rows


class ByProducts(Recorded):
    """Weighs by the products of the gradients alone, as torchjd does."""

    at = "representation"
    by_products = True

    def weigh(self, gradients: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        super().weigh(gradients, losses, present)
        weights: Tensor = UPGradWeighting()(gradients @ gradients.T)
        return weights


def on_same_rows(batch: Batch, *tasks: str, without_targets: Sequence[str] = ()) -> Batch:
    """All rows of a batch for each of the tasks."""
    random = np.random.default_rng(8)
    segments = []
    for task in tasks:
        count = 0 if task in without_targets else batch.rows
        wanted = torch.from_numpy(random.normal(size=count).astype(np.float32))
        segments.append(Segment(task, slice(0, batch.rows), np.arange(batch.rows), Targets(count, {"wanted": wanted})))
    return replace(batch, segments=tuple(segments))


SAME = on_same_rows(STEP, "a", "b", "c")


def gradients_at_hidden(model: HybridModel, batch: Batch, tasks: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The hidden states of a batch, and the gradients `[t, batch * seq * hidden]` of the mean losses by them."""
    hidden = model.hidden(batch)
    sums = Forward(model, [batch], MACHINE).sums(batch, hidden)
    rows = [torch.autograd.grad(sums[task] / batch.rows, hidden, retain_graph=True)[0].reshape(-1) for task in tasks]
    return hidden, torch.stack(rows)


@pytest.mark.parametrize("bounds", [(), (4,), (1, 5, 7)])
def test_equals_torchjd_on_the_gradients_of_the_hidden_states(bounds: tuple[int, ...]) -> None:
    model, combiner = model_of("a", "b", "c"), ByProducts(("a", "b", "c"))
    hidden, jacobian = gradients_at_hidden(model, SAME, combiner.tasks)
    hidden.backward(UPGrad()(jacobian).view_as(hidden))  # type: ignore[no-untyped-call]
    expected = {name: tensor for name, tensor in gradients_of(model).items() if name.startswith("trunk")}
    mean_losses(model, [SAME], combiner.tasks).sum().backward()
    expected |= {name: tensor for name, tensor in gradients_of(model).items() if name.startswith("heads")}
    combined, found = filled(model, combiner, divided(SAME, *bounds))
    assert combiner.seen is not None
    assert combiner.seen.shape == (3, 3)
    torch.testing.assert_close(combiner.seen @ combiner.seen.T, jacobian @ jacobian.T, atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(combined.losses, mean_losses(model, [SAME], combiner.tasks).detach())
    assert_same(found, expected)


def test_a_task_without_targets_does_not_part_the_others_rows() -> None:
    model, combiner = model_of("a", "b", "c"), ByProducts(("a", "b", "c"))
    batch = on_same_rows(STEP, "a", "b", "c", without_targets=["b"])
    _, jacobian = gradients_at_hidden(model, batch, ["a", "c"])
    combined, _ = filled(model, combiner, [batch])
    assert combined.tasks == ("a", "c")
    assert combiner.seen is not None
    torch.testing.assert_close(combiner.seen @ combiner.seen.T, jacobian @ jacobian.T, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "batch"), [(ByProducts, STEP), (ByProducts, None), (AtRepresentation, SAME)], ids=["own", "some", "sums"]
)
def test_gradients_are_summed_over_tokens_where_rows_differ_or_products_are_not_enough(
    kind: type[Recorded], batch: Batch | None
) -> None:
    if batch is None:  # two tasks have the same rows, and the third its own
        (b, *_) = [segment for segment in STEP.segments if segment.task == "b"]
        a = replace(STEP.segments[0], rows=b.rows, examples=b.examples, targets=b.targets)
        batch = replace(STEP, segments=(a, *STEP.segments[1:]))
    model, combiner = model_of("a", "b", "c"), kind(("a", "b", "c"))
    hidden = model.hidden(batch).detach().requires_grad_()
    sums = Forward(model, [batch], MACHINE).sums(batch, hidden)
    means = [sums[segment.task] / segment.targets.count for segment in batch.segments]
    wanted = torch.stack([torch.autograd.grad(mean, hidden, retain_graph=True)[0].sum(dim=(0, 1)) for mean in means])
    combined, found = filled(model, combiner, [batch])
    assert combiner.seen is not None
    torch.testing.assert_close(combiner.seen, wanted)
    (combined.weights * mean_losses(model, [batch], combiner.tasks)).sum().backward()
    trunk = {name: tensor for name, tensor in gradients_of(model).items() if name.startswith("trunk")}
    assert_same({name: tensor for name, tensor in found.items() if name.startswith("trunk")}, trunk)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_products_that_are_not_finite_are_shown_as_they_are(poison: float) -> None:
    compared = Comparison(2, HIDDEN, MACHINE, exact=True)
    values = torch.ones(1, 2, HIDDEN)
    poisoned = HiddenGradient(1, slice(0, 1), values * poison)
    compared.add(values, [HiddenGradient(0, slice(0, 1), values), poisoned])
    assert not bool(torch.isfinite(compared.gradients()).all())


# --- private parts of the trunk


class PrivateLayer(Strategy):
    """The trunk's layer belongs to task a."""

    def private(self, backbone: Backbone) -> Mapping[str, Sequence[nn.Parameter]]:
        return {"a": list(backbone.trunk.layer.parameters())}  # type: ignore[union-attr]


def test_a_private_part_of_the_trunk_gets_its_own_tasks_gradient_and_is_not_combined() -> None:
    model, combiner = model_of("a", "b"), Recorded(("a", "b"))
    model.strategy = PrivateLayer()
    batches = [batch_of(("a", [3, 4])), batch_of(("b", [2]), seed=1)]
    mean_losses(model, batches[:1], ["a"]).sum().backward()
    alone = gradients_of(model)
    _, found = filled(model, combiner, batches)
    assert combiner.seen is not None
    assert combiner.seen.shape[1] == model.trunk.words.weight.numel()
    torch.testing.assert_close(found["trunk.layer.weight"], alone["trunk.layer.weight"])


# --- losses that compare the rows of a step


class Compared(Sums):
    """Each row's embedding is to be near the mean of all of them, times a learned factor."""

    joint = True

    def embed(self, features: Features) -> Tensor:
        return features.hidden.mean(dim=1)

    def joint_loss(self, embeddings: Tensor, targets: Targets) -> Tensor:
        return self.output(embeddings - embeddings.mean(dim=0)).square().sum()

    def loss(self, features: Features, targets: Targets) -> Tensor:
        return self.joint_loss(self.embed(features), targets)


@pytest.mark.parametrize("bounds", [(1,), (2, 4), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("kind", [Combiner, GeometricMean, Recorded, AtRepresentation])
def test_a_joint_loss_has_the_same_gradient_however_the_step_is_divided(
    bounds: tuple[int, ...], kind: type[Combiner]
) -> None:
    torch.manual_seed(0)
    model = HybridModel(SmallBackbone(0.0), {"a": Compared("a"), "b": Sums("b")}).train()
    step, other = batch_of(("a", [4, 4, 4, 4, 4, 4])), batch_of(("b", [4, 4]), seed=1)
    whole, expected = filled(model, kind(("a", "b")), [step, other])
    divided_too, found = filled(model, kind(("a", "b")), [*divided(step, *bounds), other])
    torch.testing.assert_close(divided_too.losses, whole.losses)
    assert_same(found, expected)


def test_a_divided_joint_loss_sees_the_same_dropout_in_both_of_its_passes() -> None:
    torch.manual_seed(0)
    model = HybridModel(SmallBackbone(0.5), {"a": Compared("a")}).train()
    batches = divided(batch_of(("a", [4, 4, 4, 4])), 1, 3)
    torch.manual_seed(3)
    hidden = [model.hidden(batch) for batch in batches]
    head = model.head("a")
    parts = [features for batch, h in zip(batches, hidden, strict=True) for _, features in model.segments(batch, h)]
    (head.joint_loss(torch.cat([head.embed(f) for f in parts]), Targets(4, {})) / 4).backward()
    expected = gradients_of(model)
    torch.manual_seed(3)
    _, found = filled(model, Combiner(("a",)), batches)
    assert_same(found, expected)


# --- on all shared parameters

ABC = ("a", "b", "c")
HALF = Machine(MACHINE.device, Precision("bf16", "for a test", 1.0), SingleProcess())


class Exact(ByProducts):
    at = "shared"


def jacobian_of(model: HybridModel, tied: nn.Parameter | None = None) -> tuple[Tensor, list[nn.Parameter]]:
    """`[tasks, p]`: each task's gradient of the trunk's parameters, by plain PyTorch."""
    parameters = list(model.trunk.parameters())
    losses = mean_losses(model, divided(STEP, 5, 7), ABC)
    if tied is not None:
        losses = losses + torch.tensor([1.0, 0.0, 2.0]) * tied.square().sum()
    found = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    return torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in found]), parameters


@pytest.mark.parametrize("bounds", [(5, 7), (2, 5, 7), (1, 2, 3, 4, 5, 6, 7, 8, 9)])
def test_equals_torchjd_on_all_shared_parameters(bounds: tuple[int, ...]) -> None:
    model, combiner = model_of(*ABC), Exact(ABC)
    rows, _ = jacobian_of(model)
    expected = UPGrad()(rows)  # type: ignore[no-untyped-call]
    _, found = filled(model, combiner, divided(STEP, *bounds))
    assert combiner.seen is not None
    assert combiner.seen.shape == (3, 3), "products are shown, not the gradients themselves"
    torch.testing.assert_close(combiner.seen @ combiner.seen.T, rows @ rows.T, atol=1e-7, rtol=1e-5)
    trunk = torch.cat([found[f"trunk.{name}"].reshape(-1) for name, _ in model.trunk.named_parameters()])
    torch.testing.assert_close(trunk, expected, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("absent", [None, 1])
def test_gradients_of_the_steps_tokens_are_all_that_embeddings_have(absent: int | None) -> None:
    """Also where one task's gradient of the embedding is dense, as that of a tied output layer, or is not there."""
    model = model_of(*ABC)
    words = model.trunk.words.weight
    for tied in (None, words):
        rows, parameters = jacobian_of(model, tied)
        found = Jacobian(parameters, len(ABC))
        with of_tokens_alone(model.trunk, MACHINE.group):
            losses = mean_losses(model, divided(STEP, 5, 7), ABC)
            if tied is not None:
                losses = losses + torch.tensor([1.0, 0.0, 2.0]) * tied.square().sum()
            for index, loss in enumerate(losses):
                if index != absent:
                    found.add(index, torch.autograd.grad(loss, parameters, retain_graph=True))
        assert not model.trunk.words.sparse
        if absent is not None:
            rows[absent] = 0
        torch.testing.assert_close(found.products(), rows @ rows.T)
        torch.testing.assert_close(found.rows(), rows)
        for factors in (torch.tensor([0.5, 2.0, -1.0]), torch.rand(rows.shape)):
            found.fill(factors)
            wanted = (factors.reshape(3, -1) * rows).sum(dim=0)
            torch.testing.assert_close(
                torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None]), wanted
            )


class Casts(TorchDispatchMode):
    """Counts how often a tensor of a given shape is cast."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape, self.number = shape, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._to_copy.default and args[0].shape == self.shape:
            self.number += (kwargs or {}).get("dtype") == torch.bfloat16
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [Recorded, Exact])
def test_a_weight_is_cast_once_a_step_and_its_gradient_is_the_same_bit_for_bit(
    kind: type[Combiner], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[int, dict[str, Tensor]]] = []
    for cast_once in (True, False):
        if not cast_once:
            monkeypatch.setattr(shared_gradients, "cast_once", lambda device: torch.enable_grad())
        model = model_of(*ABC)
        with Casts(model.trunk.layer.weight.shape) as casts:
            combine.fill(model, kind(ABC), divided(STEP, 5, 7), HALF, draw_seed=5)
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((casts.number, grads))
    (once, ours), (each, theirs) = found
    assert (once, each) == (1, 3)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("machine", [MACHINE, HALF], ids=["fp32", "bf16"])
@pytest.mark.parametrize("bounds", [(), (5, 7), (2, 6)])
def test_one_pass_over_the_rows_of_all_tasks_has_the_gradients_of_a_pass_for_each(
    bounds: tuple[int, ...], machine: Machine
) -> None:
    found: list[Tensor] = []
    for at_once in (True, False):
        model, combiner = model_of(*ABC), Recorded(ABC)
        batches = divided(STEP, *bounds) if at_once else divided(STEP, 5, 7)
        with Casts(model.trunk.layer.weight.shape) as casts:
            plan = ExecutionPlan(one_pass=at_once)
            combined = combine.fill(model, combiner, batches, machine, draw_seed=5, plan=plan)
        assert casts.number == (machine is HALF)
        assert combiner.seen is not None
        grads = [p.grad.reshape(-1) for p in model.parameters() if p.grad is not None]
        found.append(torch.cat([combiner.seen.reshape(-1), combined.losses, *grads]))
    ours, theirs = found
    assert float((ours - theirs).norm() / theirs.norm()) < (2**-7 if machine is HALF else 1e-6)
    assert not any("forward" in vars(module) for module in model.modules())


class Mixing(nn.Module):
    """A layer with a weight, in which rows meet."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.weight * (hidden - hidden.mean(dim=0, keepdim=True))


class Twice(nn.Module):
    """A layer whose weight is used beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.linear(self.layer(hidden), self.layer.weight)


class Again(nn.Module):
    """One layer that is gone through twice, as in ALBERT."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(hidden)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("layer", "proven"),
    [(Again(), True), (nn.RMSNorm(HIDDEN), True), (Mixing(), False), (Twice(), False)],
    ids=["again", "norm", "mixing", "twice"],
)
def test_it_is_proved_whether_the_layers_go_row_by_row(layer: nn.Module, proven: bool) -> None:
    model = model_of(*ABC)
    model.trunk.dropout = layer
    assert one_pass.matches(model, STEP) is proven
    assert not any("forward" in vars(module) for module in model.modules())
