"""What a run learns by default, and what it says of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import hft_core
from hft_core import events, hookimpl
from hft_core.recipe import load

RECIPE = {"tasks": {"t": {"head": "classification"}}, "precision": "fp32"}


class Watch:
    def __init__(self) -> None:
        self.noticed: list[events.Noticed] = []

    @hookimpl
    def hft_noticed(self, event: events.Noticed) -> None:
        self.noticed.append(event)


def trained(models: Any, rows: list[dict[str, Any]], *, output: Path | None = None, **stage: Any) -> tuple[Any, Watch]:
    torch.set_num_threads(1)
    watch = Watch()
    recipe = {**RECIPE, "backbone": {"model": str(models["bert"]), "dropout": 0.0}, "stages": [stage]}
    parts = {"train": rows[40:], "dev": rows[:20], "test": rows[20:40]}
    return hft_core.run(recipe, data={"t": parts}, observers=[watch], output=output), watch


@pytest.fixture(scope="module")
def finished(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Watch]:
    output = tmp_path_factory.mktemp("learning") / "run"
    return trained(models, toys.rows(72), output=output, learning_rate=3e-3)


def test_few_rows_are_trained_on_for_a_hundred_steps(finished: tuple[Any, Watch]) -> None:
    result, _ = finished
    (stage,) = result.stages
    assert (stage.steps, stage.train_batch_size) == (80, 8)  # 20 epochs of 32 rows
    saved = load(result.folder / "recipe.yaml").stages[0]
    assert (saved.num_train_epochs, saved.train_batch_size, saved.max_rows_per_batch) == (20, 8, 8)


def test_scores_by_label_are_in_results_and_card(finished: tuple[Any, Watch]) -> None:
    result, _ = finished
    assert set(result.by_label) == {"test"}
    labels = result.by_label["test"]["t"]
    assert sum(scores["support"] for scores in labels.values()) == 20
    assert sum(scores["predicted"] for scores in labels.values()) == 20
    assert json.loads((result.folder / "results.json").read_text())["by_label"]["test"]["t"] == labels
    card = (result.folder / "README.md").read_text()
    assert "### t by label, test split\n\n| label | precision | recall | F1 | support | predicted |" in card


def test_a_stage_that_learns_is_not_remarked_on(finished: tuple[Any, Watch]) -> None:
    result, watch = finished
    assert watch.noticed == []
    assert not [warning for warning in result.warnings if "likeliest cause" in warning]


def test_a_stage_that_learns_nothing_says_so_while_it_trains(models: Any, toys: ModuleType, tmp_path: Path) -> None:
    rates = {"learning_rate": 1e-9, "head_learning_rate": 1e-9}
    stage = {**rates, "max_steps": 40, "train_batch_size": 8, "eval_strategy": "no"}
    result, watch = trained(models, toys.rows(48), output=tmp_path / "run", **stage)  # every step has the same 8 rows
    cause = "likeliest cause: the learning rate 1e-09 is far below the usual 5e-05"
    told = [event.text for event in watch.noticed]
    assert len(told) == 1, "once a task"
    assert told[0].startswith("task 't': ")
    assert told[0].endswith(cause)
    assert [warning for warning in result.warnings if "the loss does not fall" in warning and warning.endswith(cause)]
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["text"] for line in log if line["event"] == "noticed"] == told
