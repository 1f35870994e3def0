"""One stage's loop: its budget, its best weights, its stops, and steps that are not finite."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import hft_core
from hft_core import Catalogue, RunError, hookimpl
from hft_core.device.clock import PARTS
from hft_core.runs.stages import Stages

POISONED_HEAD = Path(__file__).parent / "poisoned_head.py"
POISON = '''
"""A combiner whose weights are not finite in some steps."""

from hft_core import CombinerSpec, hookimpl
from hft_core.combiner import Combiner
from hft_core.options import Options as Base


class Options(Base):
    steps: tuple[int, ...]


class Poison(Combiner):
    def __init__(self, tasks, steps):
        super().__init__(tasks)
        self.steps, self.step = steps, 0

    def forward(self, losses, present):
        self.step += 1
        return losses.sum() * (float("nan") if self.step in self.steps else 1.0)


def build(options, *, tasks):
    return Poison(tuple(tasks), options.steps)


@hookimpl
def hft_combiners():
    return [CombinerSpec(name="poison", summary="Not finite in some steps", factory="poison:build",
                         options="poison:Options")]
'''


class Watch:
    """Events, and all weights after each step."""

    def __init__(self) -> None:
        self.stages: Stages | None = None
        self.events: list[Any] = []
        self.weights: list[dict[str, Tensor]] = []
        self.failed: list[Any] = []

    @hookimpl
    def hft_step_finished(self, event: Any) -> None:
        self.events.append(event)
        if self.stages is not None:
            self.weights.append(weights_of(self.stages))

    @hookimpl
    def hft_run_failed(self, event: Any) -> None:
        self.failed.append(event)


def weights_of(stages: Stages) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in stages.material.model.state_dict().items()}


def recipe(model: Path, tasks: list[str], **stage: Any) -> dict[str, Any]:
    heads = {"topic": {"head": "classification"}, "score": {"head": "regression", "label": "score"}}
    defaults = {
        "per_device_train_batch_size": 8,
        "learning_rate": 0.01,
        "warmup_steps": 0,
        "head_warmup_steps": 0,
    }
    return {
        "backbone": {"model": str(model)},
        "tasks": {task: heads[task] for task in tasks},
        "stages": [{**defaults, **stage}],
        "precision": "fp32",
    }


def rows_for(tasks: list[str], toys: ModuleType) -> dict[str, Any]:
    rows = {"train": toys.rows(40), "dev": toys.rows(20, seed=1), "test": toys.rows(20, seed=2)}
    return dict.fromkeys(tasks, rows)


def run(stages: Stages) -> Any:
    return stages.run(0, stages.material.resolved.stages[0], fold=False)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(tensor, right[name]) for name, tensor in left.items())


# --- the budget


def test_epochs_are_passes_over_the_rows_of_all_tasks_and_each_is_evaluated(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    watch = Watch()
    result = run(
        prepare(
            recipe(models["bert"], ["topic", "score"], num_train_epochs=3), rows_for(["topic", "score"], toys), watch
        )
    )
    assert result.steps == len(watch.events) == 30
    assert result.rows == sum(event.rows for event in watch.events) == 240
    assert [e.step for e in result.history] == [10, 20, 30]
    assert [e.epoch for e in result.history] == [1.0, 2.0, 3.0]
    assert [event.step for event in watch.events] == list(range(1, 31))
    assert result.tokens == sum(event.tokens for event in watch.events)
    assert set(result.seconds) == {*PARTS, "total"}
    assert sum(value for name, value in result.seconds.items() if name != "total") <= result.seconds["total"]


def test_part_of_an_epoch_ends_with_a_smaller_step(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    watch = Watch()
    run(prepare(recipe(models["bert"], ["topic"], num_train_epochs=0.5), rows_for(["topic"], toys), watch))
    assert [event.rows for event in watch.events] == [8, 8, 4]


def test_evaluations_come_every_so_many_steps_and_at_the_end(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    given = recipe(models["bert"], ["topic"], max_steps=8, eval_strategy="steps", eval_steps=3)
    result = run(prepare(given, rows_for(["topic"], toys)))
    assert [e.step for e in result.history] == [3, 6, 8]


def test_the_learning_rate_that_is_told_is_the_one_that_the_step_was_taken_with(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    watch = Watch()
    given = recipe(models["bert"], ["topic"], max_steps=6, warmup_steps=2, learning_rate=0.008, eval_strategy="no")
    run(prepare(given, rows_for(["topic"], toys), watch))
    assert [event.learning_rate for event in watch.events] == pytest.approx([0, 0.004, 0.008, 0.006, 0.004, 0.002])


# --- the best weights

OFTEN = {"max_steps": 20, "eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "topic.loss"}


@pytest.mark.parametrize("strategy", ["full", "lora", "frozen"])
@pytest.mark.parametrize("combiner", ["sum", "uncertainty"])
def test_a_stage_ends_with_its_best_weights(
    strategy: str, combiner: str, models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    tasks, bests = ["topic", "score"], []
    for greater in (False, True):  # of the lowest and the highest loss, one at least is not the last
        watch = Watch()
        given = recipe(models["bert"], tasks, **OFTEN, strategy=strategy, combiner=combiner, greater_is_better=greater)
        stages = prepare(given, rows_for(tasks, toys), watch)
        watch.stages = stages
        result = run(stages)
        losses = {e.step: e.scores["topic"]["loss"] for e in result.history}
        assert result.best_step == (max if greater else min)(losses, key=losses.__getitem__)
        assert same(weights_of(stages), watch.weights[result.best_step - 1])
        assert result.after["topic"]["loss"] == losses[result.best_step]
        stages.scores = {}
        stages.measure(tasks)
        assert stages.scores == result.after
        bests.append(result.best_step)
    assert min(bests) < 20


def test_best_weights_that_were_found_while_the_heads_warmed_up_are_restored(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    bests = []
    for greater in (False, True):
        watch = Watch()
        given = recipe(models["bert"], ["topic"], **OFTEN, head_warmup_steps=20, greater_is_better=greater)
        stages = prepare(given, rows_for(["topic"], toys), watch)
        watch.stages = stages
        result = run(stages)
        assert same(weights_of(stages), watch.weights[result.best_step - 1])
        bests.append(result.best_step)
    assert min(bests) < 20


def test_the_last_weights_are_kept_where_the_best_are_not_asked_for(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    watch = Watch()
    stages = prepare(
        recipe(models["bert"], ["topic"], **OFTEN, load_best_model_at_end=False), rows_for(["topic"], toys), watch
    )
    watch.stages = stages
    result = run(stages)
    assert result.best_step == result.steps == 20
    assert same(weights_of(stages), watch.weights[-1])
    assert result.after["topic"] == result.history[-1].scores["topic"]


def test_the_checkpoint_holds_what_trains_and_the_combiners_state(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages], tmp_path: Path
) -> None:
    tasks = ["topic", "score"]
    given = recipe(models["bert"], tasks, max_steps=4, strategy="lora", combiner="uncertainty")
    stages = prepare(given, rows_for(tasks, toys))
    run(stages)
    (file,) = (tmp_path / "checkpoints").iterdir()
    assert file.name == "1-stage-1.safetensors"
    state = load_file(file)
    assert state["combiner.scalarizer.log_var"].shape == (2,)
    assert bool(state["combiner.scalarizer.log_var"].abs().gt(0).all())
    trained = {name for name, p in stages.material.model.named_parameters() if p.requires_grad}
    assert set(state) == {f"model.{name}" for name in trained} | {"combiner.scalarizer.log_var"}


@pytest.mark.parametrize("patience", [1, 3])
def test_a_stage_ends_after_so_many_evaluations_without_a_better_score(
    patience: int, models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    given = recipe(
        models["bert"],
        ["topic"],
        **{**OFTEN, "max_steps": 400},
        early_stopping_patience=patience,
    )
    watch = Watch()
    stages = prepare(given, rows_for(["topic"], toys), watch)
    watch.stages = stages
    result = run(stages)
    assert result.stopped_early
    assert result.steps == len(watch.events) < 400
    losses = [e.scores["topic"]["loss"] for e in result.history]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(losses) - 1 - best == patience
    assert result.best_step == result.history[best].step
    assert same(weights_of(stages), watch.weights[result.best_step - 1])


# --- steps that are not finite


def test_a_step_whose_loss_is_not_finite_moves_nothing_and_is_named_by_task_and_rows(
    models: Any, toys: ModuleType, tmp_path: Path, prepare: Callable[..., Stages]
) -> None:
    parts = rows_for(["topic", "score"], toys)
    train = [dict(row) for row in toys.rows(40)]
    train[17]["score"] = 1e7
    parts["score"] = {**parts["score"], "train": train}
    watch = Watch()
    given = recipe(models["bert"], ["topic", "score"], max_steps=10, eval_strategy="no")
    given["tasks"]["score"]["head"] = "poisoned"
    stages = prepare(given, parts, watch, inline=(POISONED_HEAD,))
    watch.stages = stages
    before = weights_of(stages)
    result = run(stages)
    skipped = [i for i, event in enumerate(watch.events) if event.skipped]
    assert result.skipped_steps == len(skipped) == 1
    event = watch.events[skipped[0]]
    assert event.skipped.startswith("the loss of score was not finite on score rows [")
    assert not math.isfinite(event.losses["score"])
    assert math.isfinite(event.losses["topic"])
    states = [before, *watch.weights]
    for i in range(10):
        assert same(states[i], states[i + 1]) == (i == skipped[0])
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights_of(stages).values())


def test_a_step_whose_gradient_is_not_finite_moves_nothing(
    models: Any, toys: ModuleType, tmp_path: Path, prepare: Callable[..., Stages]
) -> None:
    plugin = tmp_path / "poison.py"
    plugin.write_text(POISON)
    watch = Watch()
    given = recipe(
        models["bert"], ["topic"], max_steps=6, combiner={"type": "poison", "steps": [2, 5]}, eval_strategy="no"
    )
    stages = prepare(given, rows_for(["topic"], toys), watch, inline=(plugin,))
    watch.stages = stages
    result = run(stages)
    assert [bool(event.skipped) for event in watch.events] == [False, True, False, False, True, False]
    assert watch.events[1].skipped.startswith("the gradient was not finite on topic rows [")
    assert same(watch.weights[0], watch.weights[1])
    assert not same(watch.weights[1], watch.weights[2])
    assert result.skipped_steps == 2


def test_five_steps_in_a_row_that_are_not_finite_end_the_run(models: Any, toys: ModuleType, tmp_path: Path) -> None:
    train = [{**row, "score": 1e7 + index} for index, row in enumerate(toys.rows(80))]
    watch = Watch()
    given = recipe(models["bert"], ["score"], max_steps=30, eval_strategy="no")
    given["tasks"]["score"]["head"] = "poisoned"
    with pytest.raises(RunError) as caught:
        hft_core.run(
            given,
            data={"score": {"train": train}},
            catalogue=Catalogue.discover(inline=[POISONED_HEAD]),
            observers=[watch],
            output=tmp_path / "run",
        )
    message = str(caught.value)
    assert message.startswith("stage 'stage-1', step 5: 5 steps in a row had losses or gradients that are not finite")
    assert "a learning_rate below" in message
    assert message.endswith("; the weights before these steps are kept in a checkpoint")
    assert list((tmp_path / "run/checkpoints").glob("*/*.safetensors"))
    assert "\n" not in message
    assert [event.error for event in watch.failed] == [caught.value]
    assert watch.failed[0].stage == "stage-1"
    lines = [
        json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()
    ]
    assert lines[-1]["event"] == "run_failed"
    assert lines[-1]["error"] == f"RunError: {message}"
    assert [line["losses"] for line in lines if line["event"] == "step"] == [{"score": None}] * 4


def test_four_steps_in_a_row_that_are_not_finite_do_not(models: Any, toys: ModuleType, tmp_path: Path) -> None:
    plugin = tmp_path / "poison.py"
    plugin.write_text(POISON)
    given = recipe(
        models["bert"], ["topic"], max_steps=12, combiner={"type": "poison", "steps": [2, 3, 4, 5, 7, 8, 9, 10]}
    )
    result = hft_core.run(given, data=rows_for(["topic"], toys), catalogue=Catalogue.discover(inline=[plugin]))
    assert result.stages[0].skipped_steps == 8
    assert result.stages[0].steps == 12


def test_rows_without_any_target_are_passed_over(models: Any, prepare: Callable[..., Stages]) -> None:
    given = recipe(models["bert"], [], max_steps=6, eval_strategy="no", per_device_train_batch_size=1)
    given["tasks"] = {"language": {"head": "mlm"}}
    rows = [{"text": "字"}] * 5  # a single unknown token, which is a special one
    watch = Watch()
    stages = prepare(given, {"language": {"train": [{"text": "the cat saw the dog"}, *rows]}}, watch)
    watch.stages = stages
    states = [weights_of(stages)]
    run(stages)
    states += watch.weights
    without = [i for i, event in enumerate(watch.events) if not event.losses]
    assert len(without) >= 5
    assert not any(event.skipped for event in watch.events)
    assert all(same(states[i], states[i + 1]) for i in without)


def test_a_task_may_have_the_name_of_something_that_modules_have(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    recipe = {
        "backbone": str(models["bert"]),
        "tasks": {name: {"head": "classification"} for name in ("type", "train", "keys")},
        "stages": [{"max_steps": 2, "eval_strategy": "no"}],
    }
    stages = prepare(recipe, dict.fromkeys(recipe["tasks"], toys.rows(40)))
    result = stages.run(0, stages.material.resolved.stages[0], fold=False)
    assert result.tasks == ("type", "train", "keys")
    assert all(
        f"heads.{task}.scorer.whole.classifier.weight" in stages.material.model.state_dict() for task in result.tasks
    )
