"""Tasks over the same texts whose parts are in upper layers: the layers below compute each text once, and nothing that
is learned or said is different for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import hft_core
from hft_core import Catalogue, hookimpl
from hft_core.acceleration import shared_layers
from hft_core.predict.prediction import predict, predict_tasks
from hft_core.runs.stages import Stages
from hft_core.testing import Subject, checks_of
from hft_core.training.evaluation import evaluate_task, evaluate_tasks
from hft_plugins.backbones.trunk import HfBackbone
from hft_plugins.strategies.per_task.task_lora import TaskLora

UPPER = r".*\.[23]\..*(query|value|q_proj|v_proj)"
TASKS: dict[str, dict[str, Any]] = {
    "topic": {"head": "classification"},
    "score": {"head": {"type": "regression", "label": "score"}},
    "fits": {"head": {"type": "classification", "label": "fits"}},
    "pair": {"head": {"type": "classification", "text": ["text", "other"], "label": "fits"}},
}
FAMILY = ("topic", "score", "fits")
STRATEGIES: dict[str, dict[str, Any]] = {
    "task-lora": {"r": 4, "target_modules": UPPER},
    "shared-task-lora": {"r": 4, "target_modules": UPPER},
    "mtl-lora": {"r": 4, "target_modules": UPPER},
    "task-bottleneck": {"leave_out": [0, 1]},
}
TOLERANCE = 1e-6


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HFT_CACHE", str(tmp_path / "cache"))


class Watch:
    """The steps, and how many rows the lowest and the highest layer were given since the last stage was announced."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.low: list[int] = []
        self.high: list[int] = []

    @hookimpl
    def hft_stage_started(self) -> None:
        self.low.clear()
        self.high.clear()

    @hookimpl
    def hft_step_finished(self, event: Any) -> None:
        self.steps.append(event)

    @contextmanager
    def looking_at(self, model: Any) -> Iterator[None]:
        layers = model.backbone.layers
        hooks = [
            layers[0].register_forward_pre_hook(lambda _, given: self.low.append(len(given[0]))),
            layers[-1].register_forward_pre_hook(lambda _, given: self.high.append(len(given[0]))),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def recipe(model: Path, tasks: tuple[str, ...], strategy: Any, **stage: Any) -> dict[str, Any]:
    settings = {
        "max_steps": 6,
        "train_batch_size": 12,
        "learning_rate": 1e-3,
        "adam_epsilon": 1e-4,
        "load_best_model_at_end": False,
        "head_warmup_steps": 1,
        "cache_activations": "no",
    }
    return {
        "backbone": {"model": str(model), "dropout": 0.0},
        "tasks": {task: TASKS[task] for task in tasks},
        "stages": [{**settings, "strategy": strategy, **stage}],
        "precision": "fp32",
    }


def of(name: str) -> dict[str, Any]:
    return {"type": name, **STRATEGIES[name]}


def data_of(toys: ModuleType, tasks: tuple[str, ...], few: str = "") -> dict[str, Any]:
    """Rows that all tasks have in common; the task `few` has some of its own."""
    rows = {"train": toys.rows(30), "dev": toys.rows(12, seed=1)}
    return {task: {"train": toys.rows(5, seed=7)} if task == few else rows for task in tasks}


def trained(prepare: Callable[..., Stages], chosen: dict[str, Any], data: dict[str, Any]) -> tuple[Watch, Stages]:
    watch = Watch()
    stages = prepare(chosen, data, watch)
    stages.begin()
    with watch.looking_at(stages.material.model):
        for _ in chosen["stages"]:
            stages.next()
    return watch, stages


def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, a text goes through all layers for each task that reads it."""
    monkeypatch.setattr(shared_layers, "depth", lambda *_, **__: 0)


def assert_equal(ours: tuple[Watch, Stages], theirs: tuple[Watch, Stages]) -> None:
    (watch, stages), (reference, plain) = ours, theirs
    for step, expected in zip(watch.steps, reference.steps, strict=True):
        assert step.losses == pytest.approx(expected.losses, rel=TOLERANCE, abs=TOLERANCE)
        assert step.weights == pytest.approx(expected.weights, abs=TOLERANCE)
        assert step.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-5)
        assert (step.rows, step.tokens) == (expected.rows, expected.tokens)
    weights, wanted = stages.material.model.state_dict(), plain.material.model.state_dict()
    for name, tensor in wanted.items():
        torch.testing.assert_close(weights[name], tensor, atol=TOLERANCE, rtol=TOLERANCE, msg=name)
    for task, scores in stages.scores.items():
        assert scores == pytest.approx(plain.scores[task], rel=1e-5, abs=1e-5)
    assert set(reference.low) == set(reference.high)  # how often, depends on what transformers recomputes


def both(
    prepare: Callable[..., Stages], chosen: dict[str, Any], data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> tuple[tuple[Watch, Stages], tuple[Watch, Stages]]:
    ours = trained(prepare, chosen, data)
    with monkeypatch.context() as patched:
        apart(patched)
        return ours, trained(prepare, chosen, data)


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_equals_the_same_run_with_every_row_in_all_layers(
    name: str,
    family: str,
    deep: dict[str, Path],
    toys: ModuleType,
    prepare: Callable[..., Stages],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = recipe(deep[family], FAMILY, of(name))
    ours, theirs = both(prepare, chosen, data_of(toys, FAMILY), monkeypatch)
    assert_equal(ours, theirs)
    assert ours[1].execution.shared_depth == 2
    assert sum(ours[0].low) < 0.5 * sum(theirs[0].low)


CASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "others on texts of their own": (("topic", "pair", "score"), {}),
    "a task without rows in some steps": (("topic", "score", "fits"), {"sampling": {"weights": {"fits": 0.2}}}),
    "accumulated": (FAMILY, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}),
    "tokens": (FAMILY, {"max_tokens_per_batch": 60}),
    "not linear in the losses": (FAMILY, {"combiner": "famo"}),
    "at the representation": (FAMILY, {"combiner": {"type": "upgrad", "at": "representation"}}),
    "recomputed": (FAMILY, {"gradient_checkpointing": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_it_in_steps_of_every_kind(
    case: str,
    deep: dict[str, Path],
    toys: ModuleType,
    prepare: Callable[..., Stages],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks, stage = CASES[case]
    few = "fits" if case.startswith("a task without") else ""
    ours, theirs = both(
        prepare, recipe(deep["bert"], tasks, of("task-lora"), **stage), data_of(toys, tasks, few), monkeypatch
    )
    assert_equal(ours, theirs)
    assert sum(ours[0].low) < 0.8 * sum(theirs[0].low)
    if few:
        assert any(few not in step.losses for step in ours[0].steps)


def test_equals_it_with_dropout_in_the_layers_that_train(
    deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe(deep["bert"], FAMILY, {**of("task-lora"), "lora_dropout": 0.2}, head_warmup_steps=0)
    chosen["backbone"]["dropout"] = 0.1
    assert_equal(*both(prepare, chosen, data_of(toys, FAMILY), monkeypatch))


def test_gradients_of_trained_layers_in_common_are_those_of_all_rows(
    deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages], monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen_apply = TaskLora.apply

    def apply(self: TaskLora, backbone: Any, tasks: tuple[str, ...]) -> None:
        frozen_apply(self, backbone, tasks)
        backbone.layers[1].requires_grad_(True)

    monkeypatch.setattr(TaskLora, "apply", apply)
    ours, theirs = both(prepare, recipe(deep["bert"], FAMILY, of("task-lora")), data_of(toys, FAMILY), monkeypatch)
    assert_equal(ours, theirs)
    assert sum(ours[0].low) < 0.5 * sum(theirs[0].low)
    name = "trunk.encoder.layer.1.output.dense.weight"
    started = prepare(recipe(deep["bert"], FAMILY, of("task-lora")), data_of(toys, FAMILY)).material.model
    assert not torch.equal(ours[1].material.model.state_dict()[name], started.state_dict()[name])


def test_a_fusion_of_adapters_shares_what_the_adapters_share(
    deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe(deep["bert"], FAMILY, of("task-bottleneck"), max_steps=2)
    chosen["stages"].append({**chosen["stages"][0], "strategy": "adapter-fusion"})
    ours, theirs = both(prepare, chosen, data_of(toys, FAMILY), monkeypatch)
    assert_equal(ours, theirs)
    assert sum(ours[0].low) < 0.6 * sum(theirs[0].low)


# --- when nothing is shared


@pytest.mark.parametrize(
    ("tasks", "stage"),
    [
        (FAMILY, {"strategy": {"type": "task-lora", "r": 2}}),
        (FAMILY, {"combiner": "upgrad"}),
        (("topic", "pair"), {}),
    ],
    ids=["parts in all layers", "batches of one task", "other texts"],
)
def test_texts_go_through_all_layers_for_each_task_otherwise(
    tasks: tuple[str, ...],
    stage: dict[str, Any],
    deep: dict[str, Path],
    toys: ModuleType,
    prepare: Callable[..., Stages],
) -> None:
    chosen = recipe(deep["bert"], tasks, stage.pop("strategy", of("task-lora")), **stage, eval_strategy="no")
    watch, _ = trained(prepare, chosen, {task: {"train": toys.rows(30)} for task in tasks})
    assert sum(watch.low) == sum(watch.high)


def test_a_trunk_whose_pass_cannot_be_divided_is_seen_to_be_so(
    deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages], monkeypatch: pytest.MonkeyPatch
) -> None:
    divided = HfBackbone.upper
    monkeypatch.setattr(HfBackbone, "upper", lambda *given: 1.01 * divided(*given))
    ours, theirs = both(prepare, recipe(deep["bert"], FAMILY, of("task-lora")), data_of(toys, FAMILY), monkeypatch)
    assert_equal(ours, theirs)
    assert ours[1].execution.shared_depth == 0


def test_an_encoder_decoder_goes_on_as_before(models: Any, toys: ModuleType, prepare: Callable[..., Stages]) -> None:
    strategy = {"type": "task-lora", "r": 2, "target_modules": r"decoder\..*\.(q|v)"}
    chosen = recipe(models["t5"], ("topic", "fits"), strategy, max_steps=2, eval_strategy="no")
    data = {task: {"train": toys.rows(12)} for task in ("topic", "fits")}
    stages = prepare(chosen, data)
    stages.begin()
    stages.next()
    assert stages.material.model.strategy.common_layers > 0
    assert stages.execution.shared_depth == 0


def test_rows_that_are_stored_are_read(deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages]) -> None:
    chosen = recipe(deep["bert"], FAMILY, of("task-lora"), cache_activations="auto", max_steps=20, eval_strategy="no")
    watch, _ = trained(prepare, chosen, {task: {"train": toys.rows(30)} for task in FAMILY})
    assert sum(watch.low) < 0.2 * sum(watch.high)


# --- evaluation and prediction


def test_an_evaluation_of_several_tasks_is_that_of_each_alone(
    deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    _, stages = trained(prepare, recipe(deep["bert"], FAMILY, of("task-lora")), data_of(toys, FAMILY))
    model, examples, watch = stages.material.model, stages.material.examples["dev"], Watch()
    with watch.looking_at(model):
        together = evaluate_tasks(model, examples, stages.machine, seed=0, predicting=FAMILY, plan=stages.execution)
    assert (sum(watch.low), sum(watch.high)) == (12, 36)
    for task in FAMILY:
        alone = evaluate_task(model, task, examples[task], stages.machine, seed=0)
        assert together[task].loss == pytest.approx(alone.loss, rel=TOLERANCE)


@pytest.mark.parametrize("name", [*STRATEGIES, "hydra-lora"])
def test_answers_of_several_tasks_are_those_of_each_alone(
    name: str, deep: dict[str, Path], toys: ModuleType, tmp_path: Path
) -> None:
    strategy = {"type": name, **STRATEGIES.get(name, {"r": 2})}
    chosen = recipe(deep["llama"], ("topic", "score", "pair"), strategy, max_steps=3)
    hft_core.run(chosen, data=data_of(toys, ("topic", "score", "pair")), output=tmp_path / "run")
    saved: Any = hft_core.open_run(tmp_path / "run", Catalogue.discover())
    rows, watch = [{"text": row["text"], "other": row["other"]} for row in toys.rows(9, seed=5)], Watch()
    predict_tasks(saved, rows[:2])  # decides which layers the tasks share
    with watch.looking_at(saved.model):
        together = predict_tasks(saved, rows)
    assert (sum(watch.low), sum(watch.high)) == (18, 18 if name == "hydra-lora" else 27)
    for task, answers in together.items():
        for ours, alone in zip(answers, predict(saved, task, rows), strict=True):
            assert json.loads(json.dumps(ours), parse_float=lambda f: pytest.approx(float(f), abs=TOLERANCE)) == alone


@pytest.mark.slow
def test_two_processes_equal_one(
    deep: dict[str, Path], toys: ModuleType, tmp_path: Path, steps_by_processes: Callable[..., Any]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in toys.rows(60)))
    chosen = recipe(deep["bert"], FAMILY, of("task-lora"), train_batch_size=15, learning_rate=1e-4)
    for task in chosen["tasks"]:
        chosen["tasks"][task] = {**chosen["tasks"][task], "data": str(rows)}
    for one, two in steps_by_processes({**chosen, "output": {"logging_steps": 1}}):
        assert one["losses"] == pytest.approx(two["losses"], abs=1e-5)
        assert (one["rows"], one["tokens"]) == (two["rows"], two["tokens"])


@pytest.mark.parametrize("name", STRATEGIES)
def test_conformance_holds_with_layers_in_common(name: str) -> None:
    """The tiny trunks of the suite have two layers."""
    catalogue = Catalogue.discover()
    upper = {"leave_out": [0]} if name == "task-bottleneck" else {"target_modules": UPPER.replace("[23]", "1")}
    entry = catalogue.get("strategy", name)
    subject = Subject(replace(entry, spec=replace(entry.spec, example={**entry.spec.example, **upper})), catalogue)
    (check,) = (check for check in checks_of("strategy") if check.name == "layers-in-common-are-those-of-all-tasks")
    check.run(subject)  # raises also where nothing is claimed
