"""Tasks over the same texts: each text is encoded once, and nothing that is learned or said is different for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import hft_core
from hft_core import Catalogue, DataError, UsageError, hookimpl
from hft_core.cli.app import main
from hft_core.predict.prediction import answering, evaluate, predict, predict_tasks, rows_for_tasks, rows_from_texts
from hft_core.runs.stages import Stages
from hft_core.strategy import Strategy
from hft_core.training.evaluation import evaluate_task, evaluate_tasks

TASKS: dict[str, dict[str, Any]] = {
    "topic": {"head": "classification"},
    "score": {"head": {"type": "regression", "label": "score"}},
    "fits": {"head": {"type": "classification", "label": "fits"}},
    "pair": {"head": {"type": "classification", "text": ["text", "other"], "label": "fits"}},
    "language": {"head": "mlm"},
}
FAMILY = ("topic", "score", "fits")
TOLERANCE = 1e-6


class Watch:
    """The steps, and how many rows went through the trunk in each pass."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.rows: list[int] = []

    @hookimpl
    def hft_stage_started(self, event: Any) -> None:
        self.rows.clear()  # of the passes that a stage is decided by

    @hookimpl
    def hft_step_finished(self, event: Any) -> None:
        self.steps.append(event)

    def look_at(self, model: Any) -> None:
        def count(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            self.rows.append(len(named["input_ids"] if "input_ids" in named else given[0]))

        model.trunk.register_forward_pre_hook(count, with_kwargs=True)


def recipe(model: Path, tasks: tuple[str, ...], backbone: dict[str, Any] | None = None, **stage: Any) -> dict[str, Any]:
    settings = {
        "strategy": "full",
        "max_steps": 6,
        "train_batch_size": 12,
        "learning_rate": 1e-3,
        "head_learning_rate": 1e-3,
        "adam_epsilon": 1e-4,
        "load_best_model_at_end": False,
        "head_warmup_steps": 1,
    }
    return {
        "backbone": {"model": str(model), "dropout": 0.0, **(backbone or {})},
        "tasks": {task: TASKS[task] for task in tasks},
        "stages": [{**settings, **stage}],
        "precision": "fp32",
    }


def data_of(toys: ModuleType, tasks: tuple[str, ...]) -> dict[str, Any]:
    rows = {"train": toys.rows(30), "dev": toys.rows(12, seed=1)}
    return dict.fromkeys(tasks, rows)


def trained(prepare: Callable[..., Stages], chosen: dict[str, Any], data: dict[str, Any]) -> tuple[Watch, Stages]:
    watch = Watch()
    stages = prepare(chosen, data, watch)
    stages.begin()
    watch.look_at(stages.material.model)
    stages.next()
    return watch, stages


def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, a text is encoded for each task that reads it."""
    monkeypatch.setattr(Strategy, "routes_rows", True)


MIXED = ("topic", "pair", "score", "language")
CASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "sum": (MIXED, {}),
    "not linear in the losses": (FAMILY, {"combiner": "famo"}),
    "learned": (MIXED, {"combiner": "uncertainty"}),
    "gradients of the shared parameters": (MIXED, {"combiner": "upgrad"}),
    "lora": (FAMILY, {"strategy": {"type": "lora", "r": 4}}),
    "accumulated": (FAMILY, {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4}),
    "tokens": (MIXED, {"max_tokens_per_batch": 60}),
    "parted": (FAMILY, {"sampling": {"weights": {"score": 2.0}}}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_same_run_with_every_row_encoded_for_itself(
    case: str, models: Any, toys: ModuleType, prepare: Callable[..., Stages], monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, stage = CASES[case]
    chosen, data = recipe(models["bert"], tasks, **stage), data_of(toys, tasks)
    watch, stages = trained(prepare, chosen, data)
    apart(monkeypatch)
    reference, plain = trained(prepare, chosen, data)
    for step, expected in zip(watch.steps, reference.steps, strict=True):
        assert step.losses == pytest.approx(expected.losses, abs=TOLERANCE)
        assert step.weights == pytest.approx(expected.weights, abs=TOLERANCE)
        assert step.gradient_norm == pytest.approx(expected.gradient_norm, abs=1e-5)
        assert step.rows == expected.rows
    ours, theirs = stages.material.model.state_dict(), plain.material.model.state_dict()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=TOLERANCE, rtol=0, msg=name)
    for task, scores in stages.scores.items():
        assert scores == pytest.approx(plain.scores[task], rel=1e-5, abs=1e-5)
    if case != "gradients of the shared parameters":
        assert sum(watch.rows) < sum(reference.rows)


@pytest.mark.parametrize("combiner", ["sum", {"type": "upgrad", "at": "representation"}])
def test_a_step_encodes_each_text_once(
    combiner: Any, models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    chosen = recipe(models["bert"], FAMILY, combiner=combiner, eval_strategy="no", max_steps=4)
    watch, _ = trained(
        prepare, chosen, {task: {"train": rows["train"]} for task, rows in data_of(toys, FAMILY).items()}
    )
    assert watch.rows == [4] * 4
    assert [step.rows for step in watch.steps] == [12] * 4


def test_a_strategy_with_parts_of_its_own_for_each_task_encodes_a_text_for_each(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    chosen = recipe(models["bert"], FAMILY, strategy={"type": "task-lora", "r": 2}, max_steps=2, eval_strategy="no")
    watch, _ = trained(
        prepare, chosen, {task: {"train": rows["train"]} for task, rows in data_of(toys, FAMILY).items()}
    )
    assert watch.rows == [12] * 2


def test_an_evaluation_of_several_tasks_is_that_of_each_alone(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    watch, tasks = Watch(), (*FAMILY, "pair", "language")
    stages = prepare(recipe(models["bert"], tasks, max_steps=1), data_of(toys, tasks))
    model, examples = stages.material.model, stages.material.examples["dev"]
    watch.look_at(model)
    together = evaluate_tasks(model, examples, stages.machine, seed=0, predicting=tasks)
    assert sum(watch.rows) == 12 * 3
    for task in tasks:
        alone = evaluate_task(model, task, examples[task], stages.machine, seed=0)
        assert together[task].loss == pytest.approx(alone.loss, abs=TOLERANCE)
        assert_alike(together[task].predictions, alone.predictions)
    assert evaluate_tasks(model, examples, stages.machine, seed=0, predicting=["pair"])["topic"].predictions == []


def assert_alike(one: Any, other: Any) -> None:
    """Equal, numbers within the tolerance."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_alike(value, other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_alike(mine, theirs)
    elif isinstance(one, float | Tensor):
        assert one == pytest.approx(other, abs=TOLERANCE)
    else:
        assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("combiner", ["sum", {"type": "upgrad", "at": "representation"}], ids=["sum", "upgrad"])
def test_two_processes_equal_one(
    combiner: Any, models: Any, toys: ModuleType, tmp_path: Path, steps_by_processes: Callable[..., Any]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in toys.rows(60)))
    chosen = recipe(models["bert"], FAMILY, combiner=combiner, train_batch_size=15, learning_rate=1e-4)
    for task in chosen["tasks"].values():
        task["data"] = str(rows)
    for one, two in steps_by_processes({**chosen, "output": {"logging_steps": 1}}):
        assert one["losses"] == pytest.approx(two["losses"], abs=1e-5)
        assert one["weights"] == pytest.approx(two["weights"], abs=1e-4)
        assert (one["rows"], one["tokens"]) == (two["rows"], two["tokens"])


# --- prediction


@pytest.fixture(scope="module")
def run(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tasks = tmp_path_factory.mktemp("shared") / "run", (*FAMILY, "pair", "language")
    hft_core.run(recipe(models["bert"], tasks, max_steps=3), data=data_of(toys, tasks), output=folder)
    return folder


@pytest.fixture
def saved(run: Path) -> Any:
    return hft_core.open_run(run, Catalogue.discover())


def test_answers_of_several_tasks_are_those_of_each_alone(saved: Any, toys: ModuleType) -> None:
    watch, rows = Watch(), [{"text": row["text"], "other": row["other"]} for row in toys.rows(9, seed=5)]
    watch.look_at(saved.model)
    together = predict_tasks(saved, rows)
    assert sum(watch.rows) == 9 * 2, "one encoding of the text, and one of the pair"
    assert list(together) == answering(saved) == [*FAMILY, "pair"]
    for task, answers in together.items():
        assert_alike(answers, predict(saved, task, rows))
    assert_alike(predict_tasks(saved, rows, ["score"]), {"score": together["score"]})


def test_rows_must_have_what_each_of_the_tasks_reads(saved: Any) -> None:
    with pytest.raises(DataError, match=r"'pair'.*'other'"):
        predict_tasks(saved, [{"text": "they scored twice"}])
    with pytest.raises(UsageError, match="'language' has no predictions"):
        predict_tasks(saved, [{"text": "they scored twice"}], ["topic", "language"])
    with pytest.raises(UsageError, match=r"no task 'topc'.*'topic'"):
        predict_tasks(saved, [{"text": "they scored twice"}], ["topc"])


def test_texts_for_several_tasks_are_in_the_columns_of_each(saved: Any) -> None:
    rows = rows_for_tasks(saved, FAMILY, ["one", "two"])
    assert list(rows["text"]) == ["one", "two"] == list(rows_from_texts(saved, "topic", ["one", "two"])["text"])
    with pytest.raises(UsageError, match=r"'topic' \(text\) and 'pair' \(text, other\) do not read the same texts"):
        rows_for_tasks(saved, ["topic", "pair"], ["one", "two"])


def test_labelled_rows_are_scored_task_by_task_as_before(saved: Any, toys: ModuleType) -> None:
    rows = toys.rows(10, seed=3)
    assert set(evaluate(saved, "topic", rows)) >= {"accuracy", "loss"}


@pytest.fixture
def said(run: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """The lines that `hft predict` prints, or those of its error."""

    def lines(*arguments: str, code: int = 0) -> list[str]:
        capsys.readouterr()
        assert main(["predict", str(run), *arguments]) == code
        told = capsys.readouterr()
        return (told.err if code else told.out).splitlines()

    return lines


def test_the_command_line_answers_for_several_tasks_at_once(
    said: Callable[..., list[str]], toys: ModuleType, tmp_path: Path
) -> None:
    texts = ("the striker scored", "the bank paid")
    answers = [json.loads(line) for line in said(*texts, "--task", "topic", "--task", "score", "--json")]
    assert [list(answer) for answer in answers] == [["topic", "score"]] * 2
    alone = [json.loads(line) for line in said(*texts, "--task", "topic", "--json")]
    assert_alike(alone, [answer["topic"] for answer in answers])
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({k: row[k] for k in ("text", "other")}) + "\n" for row in toys.rows(3)))
    every = said("--input", str(rows), "--all-tasks", "--json")
    assert [list(json.loads(line)) for line in every] == [[*FAMILY, "pair"]] * 3
    header, *shown = said(texts[0], "--task", "topic", "--task", "score")
    assert header.split() == ["row", "task", "answer", "probability"]
    assert [line.split()[:2] for line in shown if "score" in line or "topic" in line] == [
        ["1", "topic"],
        ["1", "score"],
    ]


def test_the_command_line_wants_to_know_which_task(said: Callable[..., list[str]]) -> None:
    assert "--task is missing: which of topic, score" in said("the striker scored", code=2)[-1]
    assert "not both" in said("the striker scored", "--task", "topic", "--all-tasks", code=2)[-1]
