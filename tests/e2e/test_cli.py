"""The commands as a user types them, on a tiny model, each in a process of its own."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def hft(*arguments: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "hft_core", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, models: Any, toys: Any) -> Path:
    """`topics.csv`, `articles.txt` and `recipe.yaml` around a tiny encoder."""
    place = tmp_path_factory.mktemp("user")
    table = toys.rows(60)
    with open(place / "topics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows({name: row[name] for name in ("text", "label")} for row in table)
    (place / "articles.txt").write_text("\n".join(row["other"] for row in table))
    (place / "recipe.yaml").write_text(
        f"""\
backbone: {{model: {models["bert"]}}}
tasks:
  language: {{head: mlm, data: articles.txt}}
  topic: {{head: classification, data: topics.csv}}
stages:
  - {{name: pretrain, tasks: [language], strategy: full, max_steps: 3}}
  - {{name: finetune, strategy: {{type: lora, r: 2}}, combiner: uncertainty, max_steps: 4}}
"""
    )
    return place


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    hft("run", "recipe.yaml", "--out", "done", cwd=folder)
    return folder / "done"


def test_a_run_leaves_its_results_and_says_where(folder: Path, finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert set(results["final"]["test"]) == {"language", "topic"}
    assert [stage["strategy"] for stage in results["stages"]] == ["full", "lora"]
    again = hft("run", "recipe.yaml", "--out", "done", cwd=folder, code=2)
    assert "holds recipe.yaml" in again.stderr and "overwrites nothing" in again.stderr


@pytest.mark.slow
def test_the_saved_recipe_reproduces_the_run(folder: Path, finished: Path) -> None:
    done = hft("run", finished / "recipe.yaml", "--out", "again", "--json", cwd=folder)
    first, second = json.loads((finished / "results.json").read_text()), json.loads(done.stdout)
    assert second["final"] == first["final"]


@pytest.mark.slow
def test_flags_make_the_recipe_that_a_file_would(folder: Path, models: Any) -> None:
    flags = (
        *("--backbone", models["bert"], "--task", "topic=classification:topics.csv"),
        *("--task", "language=mlm:articles.txt", "--strategy", "lora,r=4", "--combiner", "uncertainty"),
        *("--set", "stages.0.learning_rate=3e-4", "--set", "stages.train.max_steps=2"),
    )
    outlook = json.loads(hft("validate", *flags, "--json", cwd=folder).stdout)
    stage = outlook["recipe"]["stages"][0]
    assert (stage["learning_rate"], stage["max_steps"], stage["strategy"]["r"]) == (3e-4, 2, 4)
    assert outlook["stages"][0]["steps"] == 2
    assert outlook["rows"]["topic"] == {"train": 48, "dev": 6, "test": 6}
    labels = outlook["data"]["topic"]["labels"]
    assert {split: sum(counts[split] for counts in labels.values()) for split in ("train", "dev", "test")} == {
        "train": 48,
        "dev": 6,
        "test": 6,
    }
    assert outlook["data"]["topic"]["lengths"]["train"]["cut"] == 0
    result = json.loads(hft("run", *flags, "--out", "flags", "--json", cwd=folder).stdout)
    assert result["stages"][0]["trainable"] == outlook["stages"][0]["trainable"]


@pytest.mark.slow
def test_validate_shows_what_a_run_would_do_and_trains_nothing(folder: Path) -> None:
    before = set(folder.iterdir())
    shown = hft(
        "validate", "recipe.yaml", "--set", "stages.0.per_device_train_batch_size=4", "--processes", 2, cwd=folder
    )
    assert (
        "memory of stage 'finetune': about" in shown.stdout and "100.00%" in shown.stdout and "null" not in shown.stdout
    )
    heading, first, second = shown.stdout.splitlines()[-6:-3]
    assert [line[heading.index("rows a step") :].split()[0] for line in (first, second)] == ["8", "32"]
    rates = [line[heading.index("learning rate: trunk") :].split()[:2] for line in (first, second)]
    assert rates[0] == ["5e-05", "0.001"]
    assert all(float(rate) > 0 for pair in rates for rate in pair)
    assert set(folder.iterdir()) == before


@pytest.mark.slow
def test_validate_prints_the_whole_recipe_on_request(folder: Path) -> None:
    shown = hft("validate", "recipe.yaml", "--recipe", cwd=folder).stdout
    assert "lora_alpha: null" in shown and "train_batch_size: 32" in shown


@pytest.mark.slow
def test_predictions_are_json_lines_in_the_order_of_the_input(folder: Path, finished: Path) -> None:
    texts = [row["text"] for row in csv.DictReader((folder / "topics.csv").open())][:5]
    (folder / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    printed = hft("predict", finished, "--task", "topic", *texts, "--json", cwd=folder).stdout.splitlines()
    done = hft("predict", finished, "--task", "topic", "--input", "in.jsonl", "--output", "out.jsonl", cwd=folder)
    assert done.stdout == ""
    from_file = (folder / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in printed] == [json.loads(line)["label"] for line in from_file]
    assert [json.loads(line)["text"] for line in from_file] == texts
    for line in map(json.loads, printed):
        assert sum(line["probabilities"].values()) == pytest.approx(1)
        assert line["label"] == max(line["probabilities"], key=line["probabilities"].__getitem__)


@pytest.mark.slow
def test_evaluate_gives_the_scores_that_the_run_gave(folder: Path, finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())["final"]
    scores = json.loads(hft("evaluate", finished, "--json", cwd=folder).stdout)
    for split in ("dev", "test"):
        for task, metrics in results[split].items():
            again = {name: value for name, value in scores[split][task].items() if name != "by_label"}
            assert again == pytest.approx(metrics, rel=1e-3), (split, task)
    table = json.loads(
        hft("evaluate", finished, "--task", "topic", "--data", "topics.csv", "--json", cwd=folder).stdout
    )
    assert 0 <= table["topics.csv"]["topic"]["accuracy"] <= 1


@pytest.mark.slow
def test_auto_chooses_the_stages_and_trains_them(folder: Path, models: Any) -> None:
    flags = ["--backbone", models["bert"], "--task", "topic=classification:topics.csv"]
    done = hft("run", "auto", *flags, "--task", "language=mlm:articles.txt", "--out", "auto-run", cwd=folder)
    assert "auto: one task with labels, and memory for all weights: full fine-tuning" in done.stderr
    recipe = (folder / "auto-run/recipe.yaml").read_text()
    assert recipe.index("name: pretrain") < recipe.index("name: finetune")
    assert "precision" in hft("evaluate", "auto-run", "--task", "topic", cwd=folder).stdout.split("test, topic")[1]
    scores = json.loads(hft("evaluate", "auto-run", "--task", "topic", "--json", cwd=folder).stdout)
    assert sum(values["support"] for values in scores["test"]["topic"]["by_label"].values()) == 6
    changed = hft("validate", "auto", *flags, "--set", "stages.finetune.max_steps=3", "--json", cwd=folder)
    assert [stage["steps"] for stage in json.loads(changed.stdout)["stages"]] == [3]
    refused = hft("run", "auto", *flags, "--strategy", "lora", cwd=folder, code=2)
    assert "auto chooses strategy and combiner" in refused.stderr
    assert "auto needs --backbone" in hft("run", "auto", cwd=folder, code=2).stderr
