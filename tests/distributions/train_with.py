"""Trains a tiny model with each usable plugin of a distribution, and opens what was saved: `train_with.py hft-mine`.

Prints, as JSON, the steps that each plugin's run took. Runs where the distribution is installed, without pytest.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

import hft_core
from hft_core import Catalogue, PluginError
from hft_core.plugins.catalogue import State
from hft_core.predict import saved_run
from hft_core.testing import Subject, toy_task, toys, trunks
from hft_core.testing.backbone_checks import PATH, models

STEPS = 2
TOKENS = 32
Recipe = dict[str, Any]
Data = dict[str, list[dict[str, Any]]]


def rows(subject: Subject, head: str) -> list[dict[str, Any]]:
    """Rows that a built-in head can learn."""
    return toys.rows(Subject(subject.catalogue.get("head", head), subject.catalogue).build(task="t").columns(), 24, 0)


def chosen(subject: Subject) -> Recipe:
    return {"type": subject.entry.name, **subject.spec.example}


def with_backbone(subject: Subject, folder: Path) -> tuple[Recipe, Data]:
    place = folder / "model"
    for _, model in models(subject):  # what is lent lasts as long as the loop goes on
        if model is not None:
            shutil.copytree(model, place)
        break
    options = {key: str(place) if value == PATH else value for key, value in chosen(subject).items()}
    return recipe({"topic": "classification"}, backbone=options), {"topic": rows(subject, "classification")}


def with_head(subject: Subject, folder: Path) -> tuple[Recipe, Data]:
    return recipe({"task": chosen(subject)}), {"task": toy_task.rows_of(subject, 24, 0)}


def with_strategy(subject: Subject, folder: Path) -> tuple[Recipe, Data]:
    made = recipe({"topic": "classification", "words": "mlm"}, strategy=chosen(subject))
    return made, {"topic": rows(subject, "classification"), "words": rows(subject, "mlm")}


def with_combiner(subject: Subject, folder: Path) -> tuple[Recipe, Data]:
    made = recipe({"topic": "classification", "score": "regression"}, combiner=chosen(subject))
    numbers = [{"text": row["text"], "label": row["label"]} for row in rows(subject, "regression")]
    return made, {"topic": rows(subject, "classification"), "score": numbers}


def with_recipe(subject: Subject, folder: Path) -> tuple[Recipe, Data]:
    """The recipe on a tiny trunk, with few steps of short texts."""
    made = subject.build(folder=folder)
    for task in made["tasks"].values():
        task["max_length"] = TOKENS
    for stage in made["stages"]:
        stage.pop("epochs", None)
        stage["max_steps"] = STEPS
    return {**made, **tiny(), "backbone": {"model": str(trunk_that_reads(folder))}}, {}


def trunk_that_reads(folder: Path) -> Path:
    """A tiny trunk whose tokenizer has the characters of the recipe's files, such as Chinese ones."""
    tokenizer = AutoTokenizer.from_pretrained(trunks.folder("BERT"))
    model = AutoModelForMaskedLM.from_pretrained(trunks.folder("BERT"))
    files = [path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file()]
    tokenizer.add_tokens(sorted({character for text in files for character in text if character.isalpha()}))
    model.resize_token_embeddings(len(tokenizer))
    place = folder / "trunk"
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def recipe(heads: dict[str, Any], *, backbone: Recipe | None = None, **stage: Recipe) -> Recipe:
    """One short stage with a task for each head."""
    tasks = {name: {"head": head} for name, head in heads.items()}
    made = {**tiny(), "tasks": tasks, "stages": [{"name": "only", "max_steps": STEPS, **stage}]}
    return made if backbone is None else {**made, "backbone": backbone}


def tiny() -> Recipe:
    return {"backbone": {"model": str(trunks.folder("BERT"))}, "precision": "fp32"}


def train(subject: Subject) -> int:
    with tempfile.TemporaryDirectory() as place:
        if subject.entry.seam == "launcher":
            results = json.loads((launched(subject, Path(place)) / "results.json").read_text(encoding="utf-8"))
            return sum(stage["steps"] for stage in results["stages"])
        made, data = RECIPES[subject.entry.seam](subject, Path(place) / "data")
        result = hft_core.run(made, output=Path(place) / "run", data=data, catalogue=subject.catalogue)
        used = {plugin["distribution"] for plugin in result.plugins}
        # A recipe is what a run is made from, and takes no part in it; a tracker changes nothing in it.
        assert subject.entry.seam in ("recipe", "tracker") or subject.entry.provider.distribution in used, used
        saved_run.open_run(Path(place) / "run", subject.catalogue)
        return sum(stage.steps for stage in result.stages)


def with_tracker(subject: Subject, folder: Path) -> tuple[Recipe, Data]:
    made = {**recipe({"topic": "classification"}), "output": {"track": [chosen(subject)]}}
    return made, {"topic": rows(subject, "classification")}


def launched(subject: Subject, place: Path) -> Path:
    """Train by a command that the launcher starts; return the folder of the run."""
    made = recipe({"topic": "classification"})
    made["tasks"]["topic"]["data"] = "rows.jsonl"
    lines = [json.dumps(row) + "\n" for row in rows(subject, "classification")]
    (place / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    (place / "recipe.yaml").write_text(json.dumps(made), encoding="utf-8")  # JSON is YAML
    launcher, log = subject.build(), place / "log"
    argv = [sys.executable, "-m", "hft_core", "run", str(place / "recipe.yaml"), "--out", str(place / "run")]
    handle = launcher.launch(argv, launcher.slots(1)[0], log)
    until = time.monotonic() + 600
    while handle.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert handle.poll() == 0, log.read_text(encoding="utf-8")
    return place / "run"


RECIPES: dict[str, Callable[[Subject, Path], tuple[Recipe, Data]]] = {
    "backbone": with_backbone,
    "head": with_head,
    "strategy": with_strategy,
    "combiner": with_combiner,
    "recipe": with_recipe,
    "tracker": with_tracker,
}


def main() -> None:
    torch.set_num_threads(1)
    catalogue = Catalogue.discover()
    mine = [entry for entry in catalogue.entries if entry.provider.distribution == sys.argv[1]]
    if not mine:
        raise PluginError(f"'{sys.argv[1]}' has no plugins")
    subjects = [Subject(entry, catalogue) for entry in mine if entry.state is State.OK]
    print(json.dumps({subject.name: train(subject) for subject in subjects}))


if __name__ == "__main__":
    main()
