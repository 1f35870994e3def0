"""Bottleneck adapters by task, and their fusion in a second stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import AdamW

import hft_core
from hft_core import Catalogue
from hft_core.data.loading import from_python
from hft_core.errors import PluginError
from hft_core.predict import prediction, saved_run
from hft_core.strategy import TaskRows
from hft_plugins.backbones import decoder, encoder
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions
from hft_plugins.strategies.bottleneck import fusion, per_task, shared

KINDS = ["houlsby", "pfeiffer", "parallel"]


def opened(models: Any, name: str = "bert") -> Any:
    path = str(models[name])
    if name in ("llama", "gpt2"):
        return decoder.build(DecoderOptions(model=path, dropout=0.0))
    return encoder.build(EncoderOptions(model=path, dropout=0.0))


def applied(backbone: Any, tasks: tuple[str, ...], **options: Any) -> Any:
    torch.manual_seed(0)
    strategy = per_task.build(per_task.Options(**{"bottleneck_size": 4, **options}))
    strategy.apply(backbone, tasks)
    return strategy


def fused(backbone: Any, tasks: tuple[str, ...], **options: Any) -> Any:
    torch.manual_seed(1)
    strategy = fusion.build(fusion.Options(**options))
    strategy.apply(backbone, tasks)
    return strategy


def randomise(backbone: Any) -> None:
    """Give what trains weights as if it had been trained."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in backbone.trunk.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn_like(parameter))


def batch_of(backbone: Any, toys: Any, count: int = 6) -> dict[str, Tensor]:
    texts = [row["text"] for row in toys.rows(count)]
    return dict(backbone.tokenizer(texts, padding=True, return_tensors="pt"))


def part(inputs: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: tensor[rows] for name, tensor in inputs.items()}


def steps(backbone: Any, strategy: Any, inputs: dict[str, Tensor], rows: TaskRows, count: int = 2) -> set[str]:
    """AdamW with weight decay on what trains; the parameters that changed in any bit."""
    before = {name: p.detach().clone() for name, p in backbone.trunk.named_parameters()}
    optimizer = AdamW([p for p in backbone.trunk.parameters() if p.requires_grad], lr=1e-2)
    for step in range(count):  # a projection down has no gradient before the one up has moved
        strategy.step_started(backbone, step)
        hidden = strategy.forward(backbone, inputs, rows)
        loss = (hidden * torch.linspace(-1, 1, hidden.shape[-1])).pow(2).mean()
        penalty = strategy.penalty(backbone)
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name for name, p in backbone.trunk.named_parameters() if not torch.equal(p, before[name])}


def names_of(backbone: Any, strategy: Any, task: str) -> set[str]:
    private = {id(p) for p in strategy.private(backbone)[task]}
    return {name for name, p in backbone.trunk.named_parameters() if id(p) in private}


# --- adapters by task


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
def test_a_mixed_batch_equals_each_task_alone_through_its_own_bottleneck(
    name: str, kind: str, models: Any, toys: Any
) -> None:
    backbone = opened(models, name)
    strategy = applied(backbone, ("a", "b"), kind=kind)
    randomise(backbone)
    inputs = batch_of(backbone, toys)
    rows = [("b", slice(0, 1)), ("a", slice(1, 4)), ("never-seen", slice(4, 6))]
    with torch.no_grad():
        found = strategy.forward(backbone, inputs, rows)
        bare = opened(models, name).forward(part(inputs, slice(4, 6)))
    for task, place in rows[:2]:
        single = opened(models, name)
        alone = shared.build(shared.Options(kind=kind, bottleneck_size=4))
        alone.apply(single, (task,))
        with torch.no_grad():
            for key, tensor in alone.weights(single, task).items():
                tensor.copy_(strategy.weights(backbone, task)[key])
            expected = alone.forward(single, part(inputs, place), [(task, slice(0, place.stop - place.start))])
        torch.testing.assert_close(found[place], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(found[4:6], bare, atol=1e-6, rtol=0)
    with torch.no_grad():
        alone_a = strategy.forward(backbone, inputs, [("a", slice(0, 6))])
        strategy.route(backbone, [("a", slice(None))])  # as before generation, which makes more rows of a batch
        assert torch.equal(backbone.forward(inputs), alone_a)


def test_only_the_parts_of_the_tasks_in_the_step_move(models: Any, toys: Any) -> None:
    backbone = opened(models)
    tasks = ("topic", "topic-2", "type")  # names that are prefixes of each other, and one that modules have themselves
    strategy = applied(backbone, tasks)
    assert set(strategy.private(backbone)) == set(tasks)
    parts = [names_of(backbone, strategy, task) for task in tasks]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 3 * 2 * 4
    inputs = batch_of(backbone, toys)
    moved = steps(backbone, strategy, inputs, [("topic", slice(0, 4)), ("type", slice(4, 6))])
    assert moved == names_of(backbone, strategy, "topic") | names_of(backbone, strategy, "type")
    hidden = strategy.forward(backbone, inputs, [("topic-2", slice(0, 6))])
    hidden.pow(2).mean().backward()
    for task in tasks:
        gradients = [p.grad for p in strategy.private(backbone)[task]]
        assert all((gradient is not None) == (task == "topic-2") for gradient in gradients)


def test_as_many_parameters_train_as_a_count_by_hand(models: Any) -> None:
    backbone = opened(models)
    applied(backbone, ("a", "b", "c"), kind="houlsby")
    adapter = (32 * 4 + 4) + (4 * 32 + 32)
    assert sum(p.numel() for p in backbone.trunk.parameters() if p.requires_grad) == 3 * 2 * 2 * adapter


def test_a_second_stage_keeps_the_adapters_and_gives_new_tasks_new_ones(models: Any, toys: Any) -> None:
    backbone = opened(models)
    applied(backbone, ("a", "b"))
    randomise(backbone)
    kept = {name: p.detach().clone() for name, p in backbone.trunk.named_parameters()}
    second = applied(backbone, ("b", "c"))
    assert all(torch.equal(p, kept[name]) for name, p in backbone.trunk.named_parameters() if name in kept)
    assert set(second.private(backbone)) == {"b", "c"}
    trains = {name for name, p in backbone.trunk.named_parameters() if p.requires_grad}
    assert trains == names_of(backbone, second, "b") | names_of(backbone, second, "c")
    rows = [("a", slice(0, 2)), ("b", slice(2, 4)), ("c", slice(4, 6))]
    assert steps(backbone, second, batch_of(backbone, toys), rows) == trains


def test_a_second_stage_with_other_options_is_refused(models: Any) -> None:
    backbone = opened(models)
    applied(backbone, ("a",))
    with pytest.raises(
        PluginError, match=r"kind is houlsby, but it continues with [^\n]*, where it is pfeiffer: expected"
    ):
        applied(backbone, ("a",), kind="houlsby")


def test_a_task_is_saved_as_a_bottleneck_adapter_that_the_shared_strategy_loads(
    models: Any, toys: Any, tmp_path: Path
) -> None:
    backbone = opened(models)
    strategy = applied(backbone, ("a", "a-b"), kind="houlsby")
    randomise(backbone)
    for task in ("a", "a-b", "none"):
        strategy.save_adapter(backbone, task, tmp_path / task, "base", "", {"score.weight": torch.ones(2)})
    inputs, again = batch_of(backbone, toys), opened(models)
    other = applied(again, ("a", "a-b"), kind="houlsby")
    single = opened(models)
    alone = shared.build(shared.Options(kind="houlsby", bottleneck_size=4))
    alone.apply(single, ("a-b",))
    alone.load_adapter(single, "a-b", tmp_path / "a-b", ["score.weight"])
    for task in ("a", "a-b", "none"):
        assert set(other.load_adapter(again, task, tmp_path / task, ["score.weight"])) == {"score.weight"}
    rows = [("a", slice(0, 2)), ("a-b", slice(2, 4)), ("none", slice(4, 6))]
    with torch.no_grad():
        expected = strategy.forward(backbone, inputs, rows)
        assert torch.equal(other.forward(again, inputs, rows), expected)
        found = alone.forward(single, part(inputs, slice(2, 4)), [("a-b", slice(0, 2))])
    torch.testing.assert_close(found, expected[2:4], atol=1e-6, rtol=0)


# --- their fusion


def test_equals_the_formula_of_adapter_fusion() -> None:
    torch.manual_seed(0)
    layer = fusion.Fusion(8)
    for matrix in (layer.query, layer.key, layer.value):
        torch.nn.init.normal_(matrix.weight)
    x, outputs = torch.randn(2, 3, 8), [torch.randn(2, 3, 8) for _ in range(4)]
    query, key, value = (matrix.weight.T for matrix in (layer.query, layer.key, layer.value))
    for row in range(2):
        for token in range(3):
            z = torch.stack([output[row, token] for output in outputs])
            s = torch.softmax((x[row, token] @ query) @ (z @ key).T, dim=-1)
            expected = s @ (z @ value)
            torch.testing.assert_close(layer(x, outputs)[row, token], expected, atol=1e-5, rtol=1e-5)


def adapter_at(state: dict[str, Tensor], place: str, x: Tensor) -> Tensor:
    down = torch.relu(x @ state[f"{place}.down.weight"].T + state[f"{place}.down.bias"])
    return down @ state[f"{place}.up.weight"].T + state[f"{place}.up.bias"]


def transcribed(plain: Any, inputs: dict[str, Tensor], state: dict[str, Tensor], tasks: tuple[str, ...]) -> Tensor:
    """BERT with the fusion of Pfeiffer adapters in every layer, from the weights in a saved adapter."""
    x = plain.trunk.embeddings(inputs["input_ids"])
    for number, layer in enumerate(plain.layers):
        a = layer.attention(x)[0]
        total = layer.output.dense(layer.intermediate(a)) + a
        y = layer.output.LayerNorm(total)
        place = f"layers.{number}.output"
        z = torch.stack([adapter_at(state, f"{place}.adapters.{task}", y) for task in tasks], dim=2)
        query, key, value = (state[f"{place}.fusion.{name}.weight"].T for name in ("query", "key", "value"))
        s = torch.softmax(torch.einsum("bth,btnh->btn", y @ query, z @ key), dim=-1)
        x = layer.output.LayerNorm(torch.einsum("btn,btnh->bth", s, z @ value) + total)
    return x


def test_equals_a_transcription_of_fusion_in_every_layer(models: Any, toys: Any) -> None:
    backbone, plain = opened(models), opened(models)
    before = applied(backbone, ("a", "b"))
    randomise(backbone)
    text = [toys.rows(1)[0]["text"]] * 6
    inputs = dict(backbone.tokenizer(text, return_tensors="pt"))
    with torch.no_grad():
        only_b = before.forward(backbone, inputs, [("b", slice(0, 6))])
    strategy = fused(backbone, ("a", "c"))  # `b` was in the stage before only, `c` is new
    randomise(backbone)
    backbone.trunk.double()  # in float32, sums in another order differ by up to 5e-6
    plain.trunk.double()
    with torch.no_grad():
        found = strategy.forward(backbone, inputs, [("a", slice(0, 2)), ("b", slice(2, 4)), ("c", slice(4, 6))])
        for task, rows in (("a", slice(0, 2)), ("c", slice(4, 6))):
            expected = transcribed(plain, part(inputs, rows), strategy.weights(backbone, task), ("a", "b"))
            assert float((found[rows] - expected).abs().max()) <= 1e-12
    torch.testing.assert_close(found[2:4].float(), only_b[2:4], atol=1e-5, rtol=0)
    assert float((found[0:2] - found[4:6]).abs().max()) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_fusions_of_the_tasks_in_the_step_move(kind: str, models: Any, toys: Any) -> None:
    backbone = opened(models)
    applied(backbone, ("a", "b"), kind=kind)
    randomise(backbone)
    strategy = fused(backbone, ("a", "b"))
    trains = {name for name, p in backbone.trunk.named_parameters() if p.requires_grad}
    assert trains == names_of(backbone, strategy, "a") | names_of(backbone, strategy, "b")
    assert len(trains) == 2 * 3 * len(strategy.modules)
    inputs = batch_of(backbone, toys)
    strategy.forward(backbone, inputs, [("b", slice(0, 6))])  # an evaluation before the step
    moved = steps(backbone, strategy, inputs, [("a", slice(0, 6))])
    assert moved == names_of(backbone, strategy, "a")


def test_equals_the_regularization_of_the_value_matrices_by_hand(models: Any, toys: Any) -> None:
    backbone = opened(models)
    applied(backbone, ("a", "b"))
    strategy = fused(backbone, ("a", "b"), regularization=0.5)
    randomise(backbone)
    strategy.step_started(backbone, 0)
    assert strategy.penalty(backbone) is None
    strategy.forward(backbone, batch_of(backbone, toys), [("b", slice(0, 6))])
    values = [p for name, p in backbone.trunk.named_parameters() if ".task_b.value." in name]
    assert len(values) == 2
    expected = 0.5 * sum(float((p.detach().double() - torch.eye(32)).pow(2).sum()) for p in values)
    assert strategy.penalty(backbone).item() == pytest.approx(expected, rel=1e-6)


def test_fusion_without_task_adapters_is_refused_and_says_what_to_train_first(models: Any) -> None:
    with pytest.raises(PluginError, match=r"^strategy 'adapter-fusion': [^\n]*'task-bottleneck' right before[^\n]*$"):
        fused(opened(models), ("a",))


def test_a_fusion_is_saved_with_all_adapters_and_loads_into_a_fresh_trunk(
    models: Any, toys: Any, tmp_path: Path
) -> None:
    backbone, again = opened(models), opened(models)
    applied(backbone, ("a", "b"))
    randomise(backbone)
    strategy = fused(backbone, ("a", "c"))
    randomise(backbone)
    applied(again, ("a", "b"))
    other = fused(again, ("a", "c"))
    for task in ("a", "b", "c"):
        strategy.save_adapter(backbone, task, tmp_path / task, "base", "", {})
        other.load_adapter(again, task, tmp_path / task, [])
    rows = [("a", slice(0, 2)), ("b", slice(2, 4)), ("c", slice(4, 6))]
    inputs = batch_of(backbone, toys)
    with torch.no_grad():
        assert torch.equal(other.forward(again, inputs, rows), strategy.forward(backbone, inputs, rows))
    assert {name.split(".")[3] for name in load_file(tmp_path / "c" / "adapter.safetensors")} == {"adapters", "fusion"}
    assert "layers.1.output.up.bias" in load_file(tmp_path / "b" / "adapter.safetensors")
    config = json.loads((tmp_path / "a" / "adapter.json").read_text(encoding="utf-8"))
    assert (config["type"], config["adapters"]["bottleneck_size"]) == ("adapter-fusion", 4)
    assert list(strategy.base_state(backbone)) == list(opened(models).trunk.state_dict())


@pytest.mark.parametrize(
    "build", [lambda b: applied(b, ("a", "b")), lambda b: (applied(b, ("a", "b")), fused(b, ("a", "b")))[1]]
)
def test_gradients_are_finite_under_bfloat16_autocast(build: Any, models: Any, toys: Any) -> None:
    backbone = opened(models, "llama")
    strategy = build(backbone)
    randomise(backbone)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = strategy.forward(
            backbone, batch_of(backbone, toys), [("a", slice(0, 2)), ("b", slice(2, 4)), ("none", slice(4, 6))]
        )
        hidden.pow(2).mean().backward()
    for task in ("a", "b"):
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in strategy.private(backbone)[task])


# --- in runs


def recipe(model: Path, *strategies: Any) -> dict[str, Any]:
    return {
        "backbone": {"model": str(model)},
        "tasks": {"topic": {"head": "classification"}, "score": {"head": "regression", "label": "score"}},
        "stages": [{"strategy": strategy, "max_steps": 3, "head_warmup_steps": 0} for strategy in strategies],
        "precision": "fp32",
    }


@pytest.mark.parametrize(
    "strategies",
    [
        ["l2-sp"],
        ["layerwise-decay", "gradual-unfreezing", "bitfit", "layer-norm", "bottleneck"],
        [{"type": "task-bottleneck", "kind": "parallel"}],
        ["task-bottleneck", "task-bottleneck"],
        ["task-bottleneck", "adapter-fusion"],
    ],
)
def test_a_run_saved_and_opened_again_scores_as_it_did(strategies: Any, models: Any, toys: Any, tmp_path: Path) -> None:
    rows = {"train": toys.rows(40), "dev": toys.rows(16, seed=1), "test": toys.rows(16, seed=2)}
    data: Any = dict.fromkeys(("topic", "score"), rows)
    result = hft_core.run(recipe(models["bert"], *strategies), output=tmp_path / "run", data=data)
    run = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    for task, scores in result.final["test"].items():
        again = prediction.evaluate(run, task, from_python(rows["test"], task=task))
        assert again == pytest.approx(scores, abs=1e-5)


def test_fusion_as_the_first_stage_of_a_run_is_refused(models: Any, toys: Any) -> None:
    rows = {"train": toys.rows(40), "dev": toys.rows(16, seed=1), "test": toys.rows(16, seed=2)}
    with pytest.raises(PluginError, match="'task-bottleneck' right before"):
        hft_core.run(recipe(models["bert"], "adapter-fusion"), data=dict.fromkeys(("topic", "score"), rows))
