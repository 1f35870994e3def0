"""`hft_core.run`: what it leaves behind, what it leaves alone, and that it can be done again."""

from __future__ import annotations

import csv
import json
import random
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import hft_core
from hft_core import Catalogue, Recipe, RunError, UsageError, hookimpl

TASKS = ("topic", "language")


@pytest.fixture
def files(toys: ModuleType, tmp_path: Path) -> Path:
    """A folder with the rows of two tasks."""
    folder = tmp_path / "data"
    folder.mkdir()
    with (folder / "topics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(toys.rows(60))
    (folder / "articles.txt").write_text("\n".join(row["text"] for row in toys.rows(60, seed=4)) + "\n")
    return folder


def recipe(model: Path, files: Path, **stage: Any) -> dict[str, Any]:
    common = {"per_device_train_batch_size": 8, "num_train_epochs": 1}
    return {
        "backbone": {"model": str(model)},
        "tasks": {
            "topic": {"head": "classification", "data": str(files / "topics.csv")},
            "language": {"head": "mlm", "data": str(files / "articles.txt")},
        },
        "stages": [
            {"name": "pretrain", "tasks": ["language"], "strategy": "full", **common},
            {"name": "finetune", "strategy": {"type": "lora", "r": 4}, "combiner": "uncertainty", **common, **stage},
        ],
        "precision": "fp32",
    }


def test_a_finished_run_is_a_folder_with_everything_in_it(models: Any, files: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = hft_core.run(recipe(models["bert"], files), output=run)
    assert sorted(path.name for path in run.iterdir()) == [
        "README.md",
        "combiners",
        "log.jsonl",
        "manifest.json",
        "model",
        "predictions",
        "recipe.yaml",
        "results.json",
    ]
    assert sorted(path.name for path in (run / "model").iterdir()) == ["language", "topic", "trunk"]

    (learned,) = load_file(run / "combiners/2-finetune.safetensors").values()
    assert learned.shape == (len(TASKS),)
    assert (learned != 0).all()

    found = json.loads((run / "results.json").read_text(), parse_constant=pytest.fail)
    assert found == json.loads(json.dumps(result.to_json()))
    for split in ("dev", "test"):
        assert set(found["final"][split]) == set(TASKS)
        assert {"accuracy", "f1_macro", "f1_weighted", "loss"} <= set(found["final"][split]["topic"])
        assert set(found["final"][split]["language"]) == {"loss", "perplexity"}
    assert found["main_metrics"] == {"topic": "accuracy", "language": "perplexity"}
    assert [stage["name"] for stage in found["stages"]] == ["pretrain", "finetune"]
    finetune = found["stages"][1]
    assert finetune["trainable"] < finetune["trunk"]
    assert finetune["rows_per_s"] > 0
    assert finetune["tokens_per_s"] > finetune["rows_per_s"]
    assert finetune["history"][0]["scores"]["topic"]["accuracy"] == finetune["after"]["topic"]["accuracy"]
    assert finetune["before"]["language"] == found["stages"][0]["after"]["language"]
    assert found["seconds"] > 0
    assert {"torch", "transformers", "peft", "hft-core"} <= set(found["versions"])
    used = {(plugin["seam"], plugin["name"], plugin["distribution"]) for plugin in found["plugins"]}
    assert {
        ("strategy", "lora", "hft-core"),
        ("combiner", "uncertainty", "hft-core"),
        ("head", "mlm", "hft-core"),
    } <= used
    assert all(plugin["version"] for plugin in found["plugins"])


def test_the_log_holds_what_happened_in_order(models: Any, files: Path, tmp_path: Path) -> None:
    result = hft_core.run({**recipe(models["bert"], files), "output": {"logging_steps": 4}}, output=tmp_path / "run")
    text = (tmp_path / "run/log.jsonl").read_text()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert lines[0]["event"] == "run_started"
    assert lines[-1]["event"] == "run_finished"
    assert lines[-1]["final"] == result.to_json()["final"]
    steps = [line["step"] for line in lines if line["event"] == "step" and line["stage"] == "finetune"]
    count = result.stages[1].steps
    assert steps == [step for step in range(1, count + 1) if step % 4 == 0 or step in (1, count)]
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    started = next(line for line in lines if line["event"] == "stage_started" and line["name"] == "finetune")
    assert started["trainable"] == result.stages[1].trainable


def test_the_card_says_what_was_trained_how_it_scores_and_how_it_is_opened(
    models: Any, files: Path, tmp_path: Path
) -> None:
    result = hft_core.run(recipe(models["bert"], files), output=tmp_path / "run")
    text = (tmp_path / "run/README.md").read_text()
    _, front, body = text.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["library_name"] == "peft"
    assert str(models["bert"]) not in front, "a path of this machine"
    index = {
        (entry["dataset"]["name"], entry["dataset"]["split"]): {m["type"]: m["value"] for m in entry["metrics"]}
        for entry in facts["model-index"][0]["results"]
    }
    for split, of_hub in (("dev", "validation"), ("test", "test")):
        for task, scores in result.final[split].items():
            assert index[task, of_hub] == pytest.approx(scores, abs=1e-6)
    kinds = {entry["dataset"]["name"]: entry["task"]["type"] for entry in facts["model-index"][0]["results"]}
    assert kinds == {"topic": "text-classification", "language": "fill-mask"}
    assert ModelCard(text).data.eval_results, "the hub's library reads it"
    accuracy = result.final["test"]["topic"]["accuracy"]
    assert f"| topic | accuracy | {result.final['dev']['topic']['accuracy']:.4f} ± " in body
    assert f" | {accuracy:.4f} ± " in body
    for stage in result.stages:
        assert f"| {stage.name} |" in body
        assert f"{stage.trainable:,} of {stage.trunk:,}" in body
    embedded = body.split("```yaml\n")[1].split("```")[0]
    shortened = re.sub(r"(?<=[ '])/\S*/", "…/", (tmp_path / "run/recipe.yaml").read_text())
    assert embedded == shortened
    for warning in result.warnings:
        assert warning.split("'")[1] in body


def test_the_code_in_the_card_runs(models: Any, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, strategy in (("adapter", {"type": "lora", "r": 4}), ("whole", "full")):
        hft_core.run(recipe(models["bert"], files, strategy=strategy), output=tmp_path / name)
        body = (tmp_path / name / "README.md").read_text()
        code = body.split("```python\n")[1].split("```")[0]
        monkeypatch.chdir(tmp_path / name)
        scope: dict[str, Any] = {}
        exec(code, scope)  # noqa: S102 (the card's own code is what is tested)
        assert isinstance(scope["model"], torch.nn.Module)


def test_the_saved_recipe_does_the_run_again_bit_by_bit(models: Any, files: Path, tmp_path: Path) -> None:
    first = hft_core.run(recipe(models["bert"], files), output=tmp_path / "first")
    again = hft_core.run(tmp_path / "first/recipe.yaml", output=tmp_path / "again")
    assert again.final == first.final
    assert (tmp_path / "again/recipe.yaml").read_text() == (tmp_path / "first/recipe.yaml").read_text()
    for name in ("trunk/model.safetensors", "topic/adapter_model.safetensors", "language/adapter_model.safetensors"):
        one, two = (load_file(tmp_path / run / "model" / name) for run in ("first", "again"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one), name
    losses = [
        [json.loads(line).get("losses") for line in (tmp_path / run / "log.jsonl").open()] for run in ("first", "again")
    ]
    assert losses[0] == losses[1]


def test_two_runs_in_one_process_do_not_touch_each_other(models: Any, files: Path) -> None:
    given = recipe(models["bert"], files)
    first = hft_core.run(given)
    other = hft_core.run({**given, "seed": 5})
    torch.manual_seed(99)
    again = hft_core.run(given)
    assert again.final == first.final
    assert [stage.history for stage in again.stages] == [stage.history for stage in first.stages]
    assert other.final != first.final


def test_a_run_leaves_the_random_state_of_its_host_as_it_was(models: Any, files: Path, tmp_path: Path) -> None:
    def draws() -> tuple[list[float], list[float], float]:
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002 (the host's)

    def seeded() -> None:
        torch.manual_seed(4)
        np.random.seed(4)  # noqa: NPY002
        random.seed(4)

    seeded()
    expected = draws()
    seeded()
    hft_core.run(recipe(models["bert"], files), output=tmp_path / "run")
    assert draws() == expected


def test_a_run_prints_nothing(models: Any, files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hft_core.run(recipe(models["bert"], files), output=tmp_path / "run")
    assert capfd.readouterr() == ("", "")


def test_a_run_overwrites_nothing(models: Any, files: Path, tmp_path: Path) -> None:
    given, run = recipe(models["bert"], files), tmp_path / "run"
    run.mkdir()
    (run / "results.json").write_text("precious")
    with pytest.raises(UsageError, match=r"^output folder '[^']*run' holds results\.json already[^\n]*$"):
        hft_core.run(given, output=run)
    assert (run / "results.json").read_text() == "precious"
    assert sorted(path.name for path in run.iterdir()) == ["results.json"]
    with pytest.raises(UsageError, match="cannot be made"):
        hft_core.run(given, output=files / "topics.csv")


def test_without_an_output_folder_nothing_is_left_on_disk(
    models: Any, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    result = hft_core.run(recipe(models["bert"], files))
    assert result.folder is None
    assert not list((tmp_path / "here").iterdir())
    assert not list((tmp_path / "temporary").iterdir())


def test_a_recipe_may_be_a_file_plain_data_or_a_model(models: Any, files: Path, tmp_path: Path) -> None:
    given = recipe(models["bert"], files)
    relative = {
        **given,
        "tasks": {
            "topic": {"head": "classification", "data": "data/topics.csv"},
            "language": {"head": "mlm", "data": "data/articles.txt"},
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(relative, sort_keys=False))
    by_data = hft_core.run(given)
    assert hft_core.run(Recipe.model_validate(given)).final == by_data.final
    assert hft_core.run(tmp_path / "recipe.yaml").final == by_data.final
    assert hft_core.run(str(tmp_path / "recipe.yaml"), output=tmp_path / "run").final == by_data.final
    assert hft_core.run(tmp_path / "run/recipe.yaml").final == by_data.final


class Stopping:
    """Raises what a host raises to stop a run."""

    @hookimpl
    def hft_step_finished(self) -> None:
        raise KeyboardInterrupt

    @hookimpl
    def hft_run_failed(self, event: Any) -> None:
        self.failed = event


def test_a_run_that_is_stopped_says_so_and_is_no_finished_run(models: Any, files: Path, tmp_path: Path) -> None:
    stopping = Stopping()
    with pytest.raises(KeyboardInterrupt):
        hft_core.run(recipe(models["bert"], files), output=tmp_path / "run", observers=[stopping])
    assert isinstance(stopping.failed.error, KeyboardInterrupt)
    assert stopping.failed.stage == "pretrain"
    assert not (tmp_path / "run/results.json").exists()


# --- observers


class Recorder:
    """Writes down the order of events."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @hookimpl
    def hft_run_started(self) -> None:
        self.told.append("run_started")

    @hookimpl
    def hft_stage_started(self, event: Any) -> None:
        self.told.append(f"stage_started {event.name}")

    @hookimpl
    def hft_step_finished(self, event: Any) -> None:
        self.told.append(f"step {event.step}")

    @hookimpl
    def hft_evaluation_started(self, event: Any) -> None:
        self.told.append(f"evaluation_started {' '.join(event.tasks)}")

    @hookimpl
    def hft_evaluation_finished(self, event: Any) -> None:
        self.told.append(f"evaluation_finished {event.step} {' '.join(event.scores)}")

    @hookimpl
    def hft_checkpoint_saved(self, event: Any) -> None:
        assert event.path.exists()
        self.told.append(f"checkpoint_saved {event.step}")

    @hookimpl
    def hft_stage_finished(self, event: Any) -> None:
        self.told.append(f"stage_finished {event.result.name}")

    @hookimpl
    def hft_run_finished(self, event: Any) -> None:
        self.told.append("run_finished")

    @hookimpl
    def hft_run_failed(self, event: Any) -> None:
        self.told.append(f"run_failed {event.error}")


def two_stages(model: Path) -> dict[str, Any]:
    """The first stage's second step brings nothing: the rate is too low to change an answer."""
    common = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "per_device_train_batch_size": 8}
    return {
        "backbone": {"model": str(model)},
        "tasks": {"topic": {"head": "classification"}, "language": {"head": "mlm"}},
        "stages": [
            {"name": "one", "tasks": ["topic"], "strategy": "frozen", **common, "head_learning_rate": 1e-9},
            {
                "name": "two",
                "tasks": ["language"],
                "strategy": "full",
                **common,
                "eval_strategy": "no",
                "eval_steps": None,
            },
        ],
        "precision": "fp32",
    }


def test_observers_are_told_in_the_documented_order(models: Any, toys: ModuleType) -> None:
    recorder = Recorder()
    rows = {"train": toys.rows(40), "dev": toys.rows(20, seed=1), "test": toys.rows(20, seed=2)}
    hft_core.run(two_stages(models["bert"]), data=dict.fromkeys(TASKS, rows), observers=[recorder])
    assert recorder.told == [
        "run_started",
        "evaluation_started language",  # the language model's head came with the trunk
        "evaluation_finished 0 language",
        "stage_started one",
        "step 1",
        "evaluation_started topic",
        "evaluation_finished 1 topic",
        "checkpoint_saved 1",
        "step 2",
        "evaluation_started topic",
        "evaluation_finished 2 topic",
        "checkpoint_saved 2",  # the same accuracy, and a lower loss
        "stage_finished one",
        "stage_started two",
        "step 1",
        "step 2",
        "checkpoint_saved 2",
        "evaluation_started language topic",
        "evaluation_finished 2 language topic",
        "stage_finished two",
        "evaluation_started topic language",
        "evaluation_finished 2 topic language",
        "run_finished",
    ]


class Failing(Recorder):
    """Raises at the second step."""

    @hookimpl
    def hft_step_finished(self, event: Any) -> None:
        super().hft_step_finished(event)
        if event.step == 2:
            raise ValueError("the disk is full")


def test_an_observer_that_raises_is_reported_once_and_ends_nothing(
    models: Any, toys: ModuleType, tmp_path: Path
) -> None:
    failing, recorder = Failing(), Recorder()
    rows = {"train": toys.rows(40), "dev": toys.rows(20, seed=1), "test": toys.rows(20, seed=2)}
    given = two_stages(models["bert"])
    data = dict.fromkeys(TASKS, rows)
    result = hft_core.run(given, data=data, observers=[failing, recorder], output=tmp_path / "run")
    told = [warning for warning in result.warnings if "observer" in warning]
    assert told == [
        "observer 'Failing' failed at 'step_finished' and is left out from now on: ValueError: the disk is full"
    ]
    assert json.loads((tmp_path / "run/results.json").read_text())["warnings"] == list(result.warnings)
    assert failing.told[-1] == "step 2"
    assert recorder.told[-1] == "run_finished"
    assert result.final == hft_core.run(given, data=data).final


def test_observers_learn_of_a_failed_run_instead_of_a_finished_one(models: Any, toys: ModuleType) -> None:
    recorder = Recorder()
    given = two_stages(models["bert"])
    given["tasks"]["topic"] = {"head": "poisoned", "label": "score"}
    given["stages"] = [{"tasks": ["topic", "language"], "max_steps": 9, "eval_strategy": "no"}]
    rows = [{**row, "score": 1e7 + index} for index, row in enumerate(toys.rows(40))]
    catalogue = Catalogue.discover(inline=[Path(__file__).parent / "poisoned_head.py"])
    with pytest.raises(RunError) as caught:
        hft_core.run(
            given,
            data={"topic": {"train": rows}, "language": {"train": rows}},
            observers=[recorder],
            catalogue=catalogue,
        )
    assert recorder.told[-1] == f"run_failed {caught.value}"
    assert "run_finished" not in recorder.told
