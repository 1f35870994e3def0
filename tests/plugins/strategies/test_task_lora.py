"""Low-rank parts in mixed batches: `task-lora`, `shared-task-lora`, `mtl-lora`, `hydra-lora`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hft_core.errors import PluginError
from hft_plugins.backbones import decoder, encoder
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions, opens_decoder
from hft_plugins.strategies.per_task import hydra_lora, mtl_lora, shared_task_lora, task_lora
from hft_plugins.strategies.per_task.grouped_matmul import LowRank, add_low_rank, groups_of
from hft_plugins.strategies.per_task.routed_linear import RoutedLinear, routed_layers

TASKS = ("a", "a-b", "ab", "type")  # the last is also the name of a method of every module
BUILDS = {
    "task-lora": lambda **o: task_lora.build(task_lora.Options(r=4, **o)),
    "shared-task-lora": lambda **o: shared_task_lora.build(shared_task_lora.Options(r=4, **o)),
    "mtl-lora": lambda **o: mtl_lora.build(mtl_lora.Options(r=4, **o)),
    "hydra-lora": lambda **o: hydra_lora.build(hydra_lora.Options(r=4, **o)),
}
WITH_PRIVATE = ["task-lora", "shared-task-lora", "mtl-lora"]


def opened(models: Any, name: str) -> Any:
    path = str(models[name])
    if opens_decoder(path):
        return decoder.build(DecoderOptions(model=path, dropout=0.0))
    return encoder.build(EncoderOptions(model=path, dropout=0.0))


def applied(models: Any, strategy: Any, name: str = "bert", tasks: tuple[str, ...] = TASKS) -> Any:
    """A trunk with parts that add something."""
    backbone = opened(models, name)
    torch.manual_seed(3)
    strategy.apply(backbone, tasks)
    shake(backbone)
    return backbone


def shake(backbone: Any) -> None:
    with torch.no_grad():
        for layer in routed_layers(backbone.trunk).values():
            for parameter in [*layer.shared.parameters(), *layer.private.parameters()]:
                parameter += 0.1 * torch.randn_like(parameter)


def inputs_of(backbone: Any, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    return dict(backbone.tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt"))


def rows_of(sizes: dict[str, int]) -> list[tuple[str, slice]]:
    found, start = [], 0
    for task, size in sizes.items():
        found.append((task, slice(start, start + size)))
        start += size
    return found


def loss_of(hidden: Tensor) -> Tensor:
    """Not the sum: behind a layer norm it is a constant."""
    return (hidden * torch.linspace(-1, 1, hidden.shape[-1])).pow(2).sum()


# --- products of groups


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 4, 1), (6,)])
@pytest.mark.parametrize("ranks", [(3, 3, 3), (3, 1, 2), (3, 0, 3), (0, 0, 0)])
@pytest.mark.parametrize("recorded", [True, False])
def test_each_group_gets_the_product_with_its_own_matrices(
    sizes: tuple[int, ...], ranks: tuple[int, ...], recorded: bool
) -> None:
    torch.manual_seed(0)
    x, output = torch.randn(6, 5, 8), torch.randn(6, 5, 7)
    additions = [LowRank(torch.randn(r, 8), torch.randn(7, r), 0.5) if r else None for r in ranks[: len(sizes)]]
    expected = output.clone()
    for part, addition, place in zip(x.split(sizes), additions, expected.split(sizes), strict=True):
        if addition is not None:
            place += part @ addition.down.T @ addition.up.T * addition.scaling
    with torch.set_grad_enabled(recorded):
        found = add_low_rank(output.clone(), x, sizes, additions)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_groups_join_neighbours_of_one_task_and_leave_out_empty_ones() -> None:
    rows = [("a", slice(0, 2)), ("b", slice(2, 2)), ("a", slice(2, 3)), ("b", slice(3, 5)), ("a", slice(5, 6))]
    assert groups_of(rows) == (("a", 3), ("b", 2), ("a", 1))
    assert groups_of([("a", slice(None))])[0][0] == "a"
    with pytest.raises(ValueError, match="the rows of task 'b' are slice"):
        groups_of([("a", slice(0, 2)), ("b", slice(3, 4))])


# --- what each method computes


def one_layer(models: Any, strategy: Any) -> RoutedLinear:
    backbone = applied(models, strategy)
    return routed_layers(backbone.trunk)["encoder.layer.1.attention.self.query"]


def test_shared_task_lora_adds_the_shared_lora_and_the_tasks_own(models: Any) -> None:
    strategy = BUILDS["shared-task-lora"](lora_alpha=12, task_r={"ab": 2}, task_lora_alpha=6)
    layer: Any = one_layer(models, strategy)
    strategy.routing.follow((("a", 2), ("ab", 1), ("stranger", 2)))
    x = torch.randn(5, 3, layer.in_features)
    expected = layer.base_layer(x) + 3.0 * (x @ layer.shared.lora_A.T @ layer.shared.lora_B.T)
    for task, place, scaling in (("a", slice(0, 2), 6 / 8), ("ab", slice(2, 3), 6 / 2)):
        part = layer.part(task)
        expected[place] = expected[place] + scaling * (x[place] @ part.lora_A.T @ part.lora_B.T)
    assert layer.part("ab").lora_A.shape == (2, layer.in_features)
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-6)


def test_mtl_lora_equals_the_formula_of_the_paper(models: Any) -> None:
    strategy = BUILDS["mtl-lora"](lora_alpha=6, num_B=2, temperature=0.5)
    layer: Any = one_layer(models, strategy)
    strategy.routing.follow((("a", 2), ("ab", 3)))
    x = torch.randn(5, 3, layer.in_features)
    expected = layer.base_layer(x)
    for task, place in (("a", slice(0, 2)), ("ab", slice(2, 5))):
        w, transformation = layer.part(task).lora_B_w, layer.part(task).lora_lambda
        for row in range(place.start, place.stop):
            for token in range(3):
                inner = transformation @ (layer.shared.lora_A @ x[row, token])
                for i in range(2):
                    weight = torch.exp(w[i] / 0.5) / torch.exp(w / 0.5).sum()
                    expected[row, token] += 1.5 * weight * (layer.shared.lora_B[i] @ inner)
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-6)


def test_hydra_lora_equals_the_formula_of_the_paper(models: Any) -> None:
    strategy = BUILDS["hydra-lora"](lora_alpha=6, lora_nums=3)
    layer: Any = one_layer(models, strategy)
    strategy.routing.follow((("a", 5),))
    x = torch.randn(5, 3, layer.in_features)
    expected = layer.base_layer(x)
    for row in range(5):
        for token in range(3):
            weights = torch.softmax(layer.shared.lora_route @ x[row, token], dim=0)
            for i in range(3):
                expert = layer.shared.lora_B[i] @ (layer.shared.lora_A @ x[row, token])
                expected[row, token] += 1.5 * weights[i] * expert
    torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("method", BUILDS)
@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
def test_parts_add_nothing_at_first(method: str, name: str, models: Any, toys: Any) -> None:
    plain, backbone, strategy = opened(models, name), opened(models, name), BUILDS[method]()
    inputs = inputs_of(plain, toys.rows(4))
    strategy.apply(backbone, TASKS)
    rows = rows_of({"a": 1, "stranger": 1, "ab": 2})
    with torch.no_grad():
        torch.testing.assert_close(strategy.forward(backbone, inputs, rows), plain.forward(inputs))


@pytest.mark.parametrize("method", WITH_PRIVATE)
def test_bs_differ_and_each_task_goes_its_own_way_in_a_mixed_batch(method: str, models: Any, toys: Any) -> None:
    strategy = BUILDS[method]()
    backbone = applied(models, strategy)
    inputs = inputs_of(backbone, toys.rows(1) * 5)
    with torch.no_grad():
        hidden = strategy.forward(backbone, inputs, rows_of({"a": 1, "a-b": 1, "ab": 1, "type": 1, "stranger": 1}))
    gaps = torch.cdist(hidden.flatten(1), hidden.flatten(1)) + torch.eye(5)
    assert float(gaps.min()) > 1e-3


# --- gradients


@pytest.mark.parametrize("method", WITH_PRIVATE)
def test_a_task_that_is_absent_has_no_gradient_and_keeps_its_bytes_under_weight_decay(
    method: str, models: Any, toys: Any
) -> None:
    strategy = BUILDS[method]()
    backbone = applied(models, strategy)
    private = strategy.private(backbone)
    assert set(private) == set(TASKS)
    before = {task: [p.detach().clone() for p in parts] for task, parts in private.items()}
    trained = [p for p in backbone.trunk.parameters() if p.requires_grad]
    assert {id(p) for parts in private.values() for p in parts} <= {id(p) for p in trained}
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.5)
    loss_of(strategy.forward(backbone, inputs_of(backbone, toys.rows(3)), rows_of({"a-b": 3}))).backward()
    optimizer.step()
    for task, parts in private.items():
        if task == "a-b":
            assert all(p.grad is not None for p in parts)
            assert not any(torch.equal(p, old) for p, old in zip(parts, before[task], strict=True))
        else:
            assert all(p.grad is None for p in parts)
            assert all(torch.equal(p, old) for p, old in zip(parts, before[task], strict=True))


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("method", WITH_PRIVATE)
def test_layers_computed_again_in_the_backward_pass_follow_their_own_batch(
    method: str, use_reentrant: bool, models: Any, toys: Any
) -> None:
    batches = [rows_of({"a": 2, "ab": 2}), rows_of({"a-b": 1, "a": 3}), rows_of({"type": 4})]

    def gradients(checkpointed: bool) -> dict[str, Tensor]:
        strategy = BUILDS[method]()
        backbone = applied(models, strategy)
        if checkpointed:
            backbone.trunk.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            backbone.trunk.enable_input_require_grads()
        backbone.trunk.train()
        calls: list[None] = []
        layer = backbone.layers[0].attention.self.query
        layer.register_forward_hook(lambda *_: calls.append(None))
        hidden = [
            strategy.forward(backbone, inputs_of(backbone, toys.rows(4, seed=i)), r) for i, r in enumerate(batches)
        ]
        sum(loss_of(each) for each in hidden).backward()  # type: ignore[union-attr]
        assert len(calls) == (6 if checkpointed else 3)
        return {n: p.grad for n, p in backbone.trunk.named_parameters() if p.grad is not None}

    expected, found = gradients(False), gradients(True)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", BUILDS)
def test_under_bfloat16_autocast_parts_stay_in_float32_and_outputs_follow_the_trunk(
    method: str, models: Any, toys: Any
) -> None:
    strategy = BUILDS[method]()
    backbone = applied(models, strategy)
    inputs, rows = inputs_of(backbone, toys.rows(4)), rows_of({"a": 1, "ab": 3})
    with torch.no_grad():
        exact = strategy.forward(backbone, inputs, rows)
    layer = routed_layers(backbone.trunk)["encoder.layer.0.output.dense"]
    seen: list[torch.dtype] = []
    layer.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        hidden = strategy.forward(backbone, inputs, rows)
    assert seen == [torch.bfloat16]
    torch.testing.assert_close(hidden.float(), exact, atol=0.1, rtol=0.1)
    loss_of(hidden.float()).backward()
    grads = [p.grad for p in backbone.trunk.parameters() if p.grad is not None]
    assert grads and all(g.dtype == torch.float32 and bool(g.isfinite().all()) for g in grads)


def test_a_trunk_in_bfloat16_gets_parts_in_float32_and_keeps_its_number_format(models: Any, toys: Any) -> None:
    strategy, backbone = BUILDS["task-lora"](), opened(models, "bert")
    backbone.trunk.to(torch.bfloat16)
    strategy.apply(backbone, TASKS)
    hidden = strategy.forward(backbone, inputs_of(backbone, toys.rows(4)), rows_of({"a": 1, "ab": 3}))
    assert hidden.dtype == torch.bfloat16
    assert {p.dtype for p in backbone.trunk.parameters() if p.requires_grad} == {torch.float32}


def test_dropout_falls_on_the_additions_alone_and_only_in_training(models: Any) -> None:
    strategy = BUILDS["task-lora"](lora_dropout=0.5)
    layer = one_layer(models, strategy)
    strategy.routing.follow((("a", 2),))
    x = torch.ones(2, 3, layer.in_features)
    part = layer.part("a")
    assert torch.equal(layer.eval()(x), layer(x))
    layer.train()
    torch.manual_seed(5)
    found = layer(x)
    torch.manual_seed(5)
    expected = layer.base_layer(x) + functional.dropout(x, 0.5) @ part.lora_A.T @ part.lora_B.T * 2
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


# --- a stage after a stage


@pytest.mark.parametrize("method", BUILDS)
def test_a_later_stage_goes_on_with_the_parts_and_adds_those_of_new_tasks(method: str, models: Any, toys: Any) -> None:
    first, second = BUILDS[method](), BUILDS[method]()
    backbone = applied(models, first, tasks=("a", "ab"))
    before = {n: p.detach().clone() for n, p in backbone.trunk.named_parameters()}
    inputs, rows = inputs_of(backbone, toys.rows(4)), rows_of({"a": 2, "ab": 2})
    with torch.no_grad():
        hidden = first.forward(backbone, inputs, rows)
    second.apply(backbone, ("ab", "new"))
    after = dict(backbone.trunk.named_parameters())
    assert all(torch.equal(after[n], old) for n, old in before.items())
    with torch.no_grad():
        assert torch.equal(second.forward(backbone, inputs, rows), hidden)
    if method in WITH_PRIVATE:
        assert set(second.private(backbone)) == {"a", "ab", "new"}
        trains = {task: {p.requires_grad for p in parts} for task, parts in second.private(backbone).items()}
        assert trains == {"a": {False}, "ab": {True}, "new": {True}}
    assert set(second.base_state(backbone)) == set(opened(models, "bert").trunk.state_dict())


@pytest.mark.parametrize(
    ("method", "first", "second", "message"),
    [
        ("task-lora", {"task_r": {"ab": 2}}, {}, "r of task 'ab' is 4, but 2 in the stage"),
        ("task-lora", {}, {"target_modules": ("query",)}, "selects 2 layers, but an earlier stage added to 12"),
        ("shared-task-lora", {}, {"lora_alpha": 3}, "lora_alpha is 3, but 8 in the stage"),
        ("mtl-lora", {}, {"temperature": 1.0}, "temperature is 1.0, but 0.1 in the stage"),
        ("hydra-lora", {}, {"lora_nums": 2}, "lora_nums is 2, but 3 in the stage"),
    ],
)
def test_a_later_stage_that_does_not_fit_the_parts_is_refused(
    method: str, first: dict[str, Any], second: dict[str, Any], message: str, models: Any
) -> None:
    backbone = applied(models, BUILDS[method](**first))
    with pytest.raises(PluginError, match=message):
        BUILDS[method](**second).apply(backbone, TASKS)


# --- what is refused


def test_an_option_for_an_unknown_task_is_refused(models: Any) -> None:
    with pytest.raises(PluginError, match=r"names 'typ', which is no task of the stage\. Did you mean 'type'\?"):
        BUILDS["task-lora"](task_r={"typ": 2}).apply(opened(models, "bert"), TASKS)


def test_layers_that_the_trunk_does_not_have_are_refused_in_one_line(models: Any) -> None:
    with pytest.raises(PluginError, match=r"^strategy 'task-lora': PEFT refuses: [^\n]*q_prj[^\n]*$"):
        BUILDS["task-lora"](target_modules=("q_prj",)).apply(opened(models, "bert"), TASKS)


def test_layers_that_are_not_linear_are_refused(models: Any) -> None:
    strategy = BUILDS["task-lora"](target_modules=("query", "word_embeddings"))
    with pytest.raises(PluginError, match=r"'embeddings\.word_embeddings', which is Embedding: expected linear layers"):
        strategy.apply(opened(models, "bert"), TASKS)


def test_a_layer_that_gets_other_rows_than_the_batch_has_is_refused(models: Any) -> None:
    strategy = BUILDS["task-lora"]()
    layer = one_layer(models, strategy)
    with pytest.raises(RuntimeError, match=r"before Strategy\.route told whose the rows are"):
        layer(torch.zeros(2, 3, layer.in_features))
    strategy.routing.follow((("a", 2), ("ab", 2)))
    with pytest.raises(PluginError, match="was given 6 rows of a batch of 4"):
        layer(torch.zeros(6, layer.in_features))


def test_rows_of_one_task_may_become_more_as_beams_do(models: Any) -> None:
    strategy = BUILDS["task-lora"]()
    backbone = applied(models, strategy)
    layer = routed_layers(backbone.trunk)["encoder.layer.0.output.dense"]
    strategy.route(backbone, [("ab", slice(None))])
    x = torch.randn(2, 3, layer.in_features)
    assert torch.equal(layer(x.repeat(3, 1, 1))[:2], layer(x))


def test_parts_of_tasks_cannot_be_folded(models: Any) -> None:
    strategy = BUILDS["task-lora"]()
    with pytest.raises(PluginError, match="keeps a part for each task, which cannot be folded"):
        strategy.fold(applied(models, strategy))


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
def test_the_layers_are_those_of_the_strategy_lora(name: str, models: Any) -> None:
    from hft_plugins.strategies.peft import lora

    ours, theirs = opened(models, name), opened(models, name)
    BUILDS["task-lora"]().apply(ours, TASKS)
    lora.build(lora.Options(r=4)).apply(theirs, TASKS)
    expected = {n.split(".lora_A")[0] for n, p in theirs.trunk.named_parameters() if ".lora_A" in n}
    assert set(routed_layers(ours.trunk)) == expected
    assert not hasattr(ours.trunk, "peft_config")
