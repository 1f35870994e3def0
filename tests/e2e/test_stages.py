"""What each stage trains, freezes and hands on to the next."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import hft_core
from hft_core import RecipeError, hookimpl
from hft_core.device.machine import find_machine
from hft_core.model.hybrid import HybridModel
from hft_core.runs import assembly
from hft_core.runs.stages import Stages
from hft_core.training.head_input_scale import rate_factors

STRATEGIES: dict[str, Any] = {
    "full": "full",
    "frozen": "frozen",
    "partial": {"type": "partial", "layers": 1},
    "lora": {"type": "lora", "r": 4, "target_modules": ["query", "value"]},
}
NORM = 32 + 32
LAYER = 4 * (32 * 32 + 32) + (32 * 48 + 48) + (48 * 32 + 32) + 2 * NORM
TRUNK = (112 + 64 + 2) * 32 + NORM + 2 * LAYER
"""Parameters of the tiny encoder: words, positions and types of 32 numbers each, and two layers."""
LORA = 2 * 2 * 4 * (32 + 32)
"""Layers, matrices of a layer, rank, rows and columns."""


def recipe(model: Any, tasks: list[str], stages: list[dict[str, Any]]) -> dict[str, Any]:
    heads: dict[str, Any] = {
        "topic": {"head": "classification"},
        "score": {"head": "regression", "label": "score"},
        "language": {"head": "mlm"},
    }
    defaults = {"max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 0.01, "warmup_steps": 0}
    return {
        "backbone": {"model": str(model), "dropout": 0.0},
        "tasks": {task: heads[task] for task in tasks},
        "stages": [{**defaults, "head_warmup_steps": 0, **stage} for stage in stages],
        "precision": "fp32",
    }


def rows_for(tasks: list[str], toys: ModuleType) -> dict[str, Any]:
    rows = {"train": toys.rows(40), "dev": toys.rows(20, seed=1), "test": toys.rows(20, seed=2)}
    return dict.fromkeys(tasks, rows)


def copied(model: HybridModel) -> dict[str, Tensor]:
    """Every parameter; a trunk's layers by their own names also while something is injected into them."""
    return {
        name.replace(".base_layer.", "."): p.detach().clone()
        for name, p in model.named_parameters()
        if "lora_" not in name
    }


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def hidden_states(model: HybridModel, toys: ModuleType) -> Tensor:
    inputs = model.backbone.tokenizer([row["text"] for row in toys.rows(6)], padding=True, return_tensors="pt")
    model.eval()
    with torch.no_grad():
        return model.backbone.forward(dict(inputs))


@pytest.mark.parametrize(("first", "second"), list(product(STRATEGIES, repeat=2)))
def test_any_two_strategies_may_follow_each_other(
    first: str, second: str, models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    both = [{"strategy": STRATEGIES[first]}, {"strategy": STRATEGIES[second]}]
    stages = prepare(recipe(models["bert"], ["topic"], both), rows_for(["topic"], toys))
    model, chosen = stages.material.model, stages.material.resolved.stages
    counts = {"full": TRUNK, "frozen": 0, "partial": LAYER, "lora": LORA}
    opened = copied(model)

    result = stages.run(0, chosen[0], fold=True)
    between = copied(model)
    assert (result.steps, result.trunk, result.trainable) == (2, TRUNK, counts[first])
    assert trunk_part(moved(opened, between)) == expected_to_move(first, opened, folded=True)
    assert stages.trunk_changed == (first != "frozen")
    handed_on = hidden_states(model, toys)

    strategy = assembly.strategy_of(chosen[0])
    strategy.apply(model.backbone, ("topic",))  # as the next stage does; it must find the trunk it knows
    strategy.fold(model.backbone)
    torch.testing.assert_close(hidden_states(model, toys), handed_on, atol=1e-5, rtol=0)

    result = stages.run(1, chosen[1], fold=False)
    assert (result.steps, result.trunk, result.trainable) == (2, TRUNK, counts[second])
    assert trunk_part(moved(between, copied(model))) == expected_to_move(second, opened, folded=False)
    adapters = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert bool(adapters) == (second == "lora")


def trunk_part(names: set[str]) -> set[str]:
    """Without keys' biases, whose gradient is 0 but for rounding."""
    return {name for name in names if name.startswith("trunk.") and not name.endswith("key.bias")}


def expected_to_move(strategy: str, names: dict[str, Tensor], *, folded: bool) -> set[str]:
    """The trunk parameters that a stage may change; under LoRA only those it is folded into."""
    patterns = {
        "full": ("",),
        "frozen": (),
        "partial": ("encoder.layer.1.",),
        "lora": ("attention.self.query.weight", "attention.self.value.weight") if folded else (),
    }[strategy]
    # Embeddings of words and positions that never occur do move: by weight decay.
    return trunk_part({name for name in names if any(pattern in name for pattern in patterns)})


def test_folding_an_adapter_keeps_the_function_that_was_learned(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    stages = prepare(recipe(models["bert"], ["topic"], [{"strategy": STRATEGIES["lora"]}]), rows_for(["topic"], toys))
    at_first = hidden_states(stages.material.model, toys)
    stages.run(0, stages.material.resolved.stages[0], fold=False)
    adapted = hidden_states(stages.material.model, toys)
    assert float((adapted - at_first).abs().max()) > 1e-3
    stages.material.model.fold_strategy()
    torch.testing.assert_close(hidden_states(stages.material.model, toys), adapted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_heads_of_other_tasks_do_not_move_not_even_by_weight_decay(
    strategy: str, models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    tasks = ["topic", "score", "language"]
    chosen = [
        {"strategy": "full", "tasks": tasks},
        {"strategy": STRATEGIES[strategy], "tasks": ["topic"], "weight_decay": 0.5},
    ]
    stages = prepare(recipe(models["bert-without-head"], tasks, chosen), rows_for(tasks, toys))
    stages.run(0, stages.material.resolved.stages[0], fold=True)
    before = copied(stages.material.model)
    stages.run(1, stages.material.resolved.stages[1], fold=False)
    changed = {name for name in moved(before, copied(stages.material.model)) if name.startswith("heads.")}
    assert changed
    assert all(name.startswith("heads.topic.") for name in changed)


@pytest.mark.parametrize(("name", "head"), [("bert", "mlm"), ("llama", "clm"), ("gpt2", "clm")])
def test_a_pretrained_lm_head_moves_only_where_the_whole_trunk_does_and_stays_tied(
    name: str, head: str, models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    lora = {"type": "lora", "r": 4}
    given = recipe(models[name], ["language"], [{"strategy": s} for s in (lora, "full", lora)])
    given["tasks"]["language"]["head"] = head
    stages = prepare(given, rows_for(["language"], toys))
    model = stages.material.model
    embeddings = model.trunk.get_input_embeddings()  # type: ignore[operator]
    tied = name != "llama"
    for index, stage in enumerate(stages.material.resolved.stages):
        before = copied(model)
        result = stages.run(index, stage, fold=index < 2)
        changed = {n for n in moved(before, copied(model)) if n.startswith("heads.")}
        assert bool(changed) == (index == 1 and result.heads > 0)
        assert torch.isfinite(torch.tensor(result.after["language"]["loss"]))
        same = any(p is embeddings.weight for p in model.heads["language"].parameters())
        assert same == tied
    own = model.own_parameters("language")
    assert bool(own) == (name != "gpt2")  # GPT-2's LM head is its embeddings, and nothing else


def test_a_stage_in_which_nothing_would_train_is_refused(models: Any, toys: ModuleType) -> None:
    given = recipe(models["bert"], ["language"], [{"strategy": "frozen", "combiner": "uncertainty"}])
    with pytest.raises(RecipeError, match=r"^stage 'stage-1' trains nothing: [^\n]*language[^\n]*$"):
        hft_core.run(given, data=rows_for(["language"], toys))


class Watch:
    """Copies all parameters after each step."""

    def __init__(self) -> None:
        self.model: HybridModel | None = None
        self.steps: list[dict[str, Tensor]] = []
        self.events: list[Any] = []

    @hookimpl
    def hft_step_finished(self, event: Any) -> None:
        assert self.model is not None
        self.steps.append(copied(self.model))
        self.events.append(event)


@pytest.mark.parametrize(("given", "warm", "still"), [(3, 0, 3), (0, 0, 0), ("auto", 0, 2), (3, 1, 4), (20, 0, 20)])
def test_fresh_heads_warm_up_on_a_trunk_that_stands_still_for_exactly_the_stated_steps(
    given: Any, warm: int, still: int, models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    watch = Watch()
    stage = {
        "strategy": "full",
        "max_steps": 20,
        "head_warmup_steps": given,
        "warmup_steps": warm,
        "eval_strategy": "no",
    }
    stages = prepare(recipe(models["bert"], ["topic"], [stage]), rows_for(["topic"], toys), watch)
    watch.model = stages.material.model
    before = copied(stages.material.model)
    result = stages.run(0, stages.material.resolved.stages[0], fold=False)
    assert result.head_warmup_steps == (2 if given == "auto" else given)
    trunk_moved = [bool(trunk_part(moved(before, after))) for after in watch.steps]
    assert trunk_moved == [False] * still + [True] * (20 - still)
    heads_moved = [any(n.startswith("heads.") for n in moved(before, after)) for after in watch.steps]
    assert heads_moved == [False] * warm + [True] * (20 - warm)
    assert all(p.requires_grad for p in stages.material.model.trunk.parameters())


def test_one_pass_measures_what_all_fresh_heads_read(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks over the same texts share it, and heads that tell no scale need none."""
    tasks = ["topic", "score", "language"]
    built = prepare(recipe(models["bert-without-head"], tasks, [{}]), rows_for(tasks, toys)).material
    passes, hidden = [], built.model.hidden
    monkeypatch.setattr(built.model, "hidden", lambda batch: passes.append(batch) or hidden(batch))

    def factors(*of: str) -> dict[str, float]:
        return rate_factors(built.model, of, built.examples["train"], find_machine("fp32"), seed=0)

    found = factors(*tasks)
    assert len(passes) == 1
    assert found == {**factors("topic"), **factors("score")}
    assert found.keys() == {"topic", "score"}
    assert factors("language") == {}
    assert len(passes) == 3


def test_a_head_that_an_earlier_stage_trained_needs_no_warm_up(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    both = [{"strategy": s, "max_steps": 20, "head_warmup_steps": "auto"} for s in ("full", "full")]
    stages = prepare(recipe(models["bert"], ["topic"], both), rows_for(["topic"], toys))
    warm = [stages.run(i, s, fold=i < 1).head_warmup_steps for i, s in enumerate(stages.material.resolved.stages)]
    assert warm == [2, 0]


def test_a_head_without_weights_needs_no_warm_up(models: Any, toys: ModuleType, prepare: Callable[..., Stages]) -> None:
    watch = Watch()
    stage = {"strategy": "full", "max_steps": 20, "head_warmup_steps": "auto", "eval_strategy": "no"}
    pairs = {"head": {"type": "contrastive", "text": ["text", "other"]}}
    stages = prepare(
        {**recipe(models["bert"], ["topic"], [stage]), "tasks": {"pairs": pairs}},
        {"pairs": {"train": toys.rows(40)}},
        watch,
    )
    watch.model = stages.material.model
    before = copied(stages.material.model)
    assert stages.run(0, stages.material.resolved.stages[0], fold=False).head_warmup_steps == 0
    assert trunk_part(moved(before, watch.steps[0]))


@pytest.mark.parametrize("combiner", ["sum", "uncertainty", "pcgrad", {"type": "weighted", "weights": {"topic": 2.0}}])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_language_modelling_and_supervised_tasks_train_together(
    strategy: str, combiner: Any, models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    tasks = ["topic", "score", "language"]
    watch = Watch()
    stage = {"strategy": STRATEGIES[strategy], "combiner": combiner, "max_steps": 20, "head_warmup_steps": "auto"}
    stages = prepare(recipe(models["bert"], tasks, [stage]), rows_for(tasks, toys), watch)
    watch.model = stages.material.model
    result = stages.run(0, stages.material.resolved.stages[0], fold=False)
    assert result.steps == 20
    assert result.skipped_steps == 0
    assert set(result.after) == set(tasks)
    assert {task for event in watch.events for task in event.losses} == set(tasks)
    for event in watch.events:
        assert event.losses.keys() == event.weights.keys()
        assert abs(event.rows - 8) <= 2, "topic and score have whole texts in common"
    assert sum(event.rows for event in watch.events) == pytest.approx(8 * 20, abs=3)


def test_what_a_stage_starts_and_ends_with_is_measured_for_all_tasks_that_know_something(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    tasks = ["topic", "score", "language"]
    chosen = [{"tasks": ["topic"]}, {"tasks": ["language"]}, {"tasks": ["score"], "strategy": "frozen"}]
    stages = prepare(recipe(models["bert"], tasks, chosen), rows_for(tasks, toys))
    results = [stages.run(i, s, fold=i < 2) for i, s in enumerate(stages.material.resolved.stages)]
    assert [sorted(r.before) for r in results] == [["language"], ["language", "topic"], ["language", "topic"]]
    assert [sorted(r.after) for r in results] == [["language", "topic"], ["language", "topic"], sorted(tasks)]
    assert results[1].before == results[0].after
    # A frozen trunk changes nothing for the other tasks.
    assert {task: results[2].after[task] for task in ("language", "topic")} == results[2].before


def test_a_stage_that_makes_a_task_worse_is_warned_of(models: Any, toys: ModuleType) -> None:
    tasks = ["topic", "language"]
    chosen = [
        {"tasks": ["topic"], "max_steps": 60, "name": "learn"},
        {"tasks": ["language"], "max_steps": 30, "learning_rate": 0.5, "name": "tear", "load_best_model_at_end": False},
    ]
    result = hft_core.run(recipe(models["bert"], tasks, chosen), data=rows_for(tasks, toys))
    learn, tear = result.stages
    assert learn.after["topic"]["accuracy"] > 0.9
    assert not [warning for warning in learn.warnings if "topic" in warning]
    (warning,) = [warning for warning in tear.warnings if "topic" in warning]
    was, now = tear.before["topic"]["accuracy"], tear.after["topic"]["accuracy"]
    assert warning == f"task 'topic' got worse: accuracy {was:.4g} before, {now:.4g} after"
    assert f"stage 'tear': {warning}" in result.warnings


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("topic.f1_macr", r"no metric 'f1_macr'\. Did you mean 'f1_macro'\?"),
        ("score.mae", r"stage 'second'.*task of the stage.*topic"),
    ],
)
def test_a_metric_that_cannot_be_measured_is_refused_before_the_first_step_of_the_first_stage(
    metric: str, message: str, models: Any, toys: ModuleType
) -> None:
    tasks, watch = ["topic", "score"], Watch()
    chosen = [
        {"tasks": tasks, "name": "first"},
        {"tasks": ["topic"], "name": "second", "metric_for_best_model": metric},
    ]
    with pytest.raises(RecipeError, match=message):
        hft_core.run(recipe(models["bert"], tasks, chosen), data=rows_for(tasks, toys), observers=[watch])
    assert watch.events == []


def test_a_metric_of_a_task_without_dev_rows_is_refused_before_training(models: Any, toys: ModuleType) -> None:
    tasks = ["topic", "score"]
    parts = rows_for(tasks, toys)
    parts["topic"] = {"train": toys.rows(40)}
    given = recipe(models["bert"], tasks, [{"metric_for_best_model": "topic.accuracy"}])
    with pytest.raises(RecipeError, match="'topic' has no dev rows"):
        hft_core.run(given, data=parts)
