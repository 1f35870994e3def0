"""Opening a finished run: from anywhere, without a trace, and never with weights that are not the run's."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import hft_core
from hft_core import Catalogue, ModelError
from hft_core.data import loading, row_notes
from hft_core.predict import prediction, saved_run

STRATEGIES = {"whole": ("full",), "adapter": ("lora",), "both": ("full", "lora")}


@pytest.fixture(scope="module")
def runs(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    rows = {"train": toys.rows(40), "dev": toys.rows(10, seed=1), "test": toys.rows(10, seed=2)}
    for name, model in (("bert", "bert"), ("splinter", "splinter")):
        for kind, strategies in STRATEGIES.items():
            tasks: dict[str, Any] = {"topic": {"head": "classification"}}
            if name == "bert":
                tasks["language"] = {"head": "mlm"}
            recipe = {
                "backbone": {"model": str(models[model])},
                "tasks": tasks,
                "stages": [{"strategy": s, "max_steps": 3, "learning_rate": 0.01} for s in strategies],
                "precision": "fp32",
            }
            hft_core.run(recipe, data=dict.fromkeys(tasks, rows), output=folder / f"{name}-{kind}")
    return folder


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(runs / name, tmp_path / name))


def answers(folder: Path, toys: ModuleType) -> Any:
    rows = loading.from_python(toys.rows(6, seed=9), task="topic")
    return prediction.predict(saved_run.open_run(folder, Catalogue.discover()), "topic", rows)


KINDS = [f"{name}-{kind}" for name in ("bert", "splinter") for kind in STRATEGIES]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_says_the_same_wherever_its_folder_is(
    kind: str, runs: Path, copied: Callable[[str], Path], toys: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answers(runs / kind, toys)
    assert [sorted(answer) for answer in expected] == [["label", "probabilities"]] * 6
    moved = copied(kind)
    hidden = runs / f".{kind}"
    (runs / kind).rename(hidden)
    try:
        monkeypatch.chdir(moved.parent)
        assert answers(Path(kind), toys) == expected
    finally:
        hidden.rename(runs / kind)


def test_opening_a_run_leaves_the_random_state_as_it_was(runs: Path) -> None:
    torch.manual_seed(1)
    random.seed(1)
    expected = (torch.rand(2).tolist(), random.random())
    torch.manual_seed(1)
    random.seed(1)
    for kind in KINDS:
        saved_run.open_run(runs / kind, Catalogue.discover())
    assert (torch.rand(2).tolist(), random.random()) == expected


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        saved_run.open_run(folder, Catalogue.discover())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_finished_run_is_refused(copied: Callable[[str], Path], tmp_path: Path) -> None:
    assert "no such run folder" in refused(tmp_path / "nowhere")
    folder = copied("bert-whole")
    (folder / "results.json").unlink()
    assert "not a finished run: it has no results" in refused(folder)


WEIGHTS = {
    "bert-whole": ["topic/head.safetensors", "trunk/model.safetensors"],
    "bert-adapter": ["topic/adapter_model.safetensors"],
    "bert-both": ["topic/adapter_model.safetensors", "language/adapter_model.safetensors"],
    "splinter-adapter": ["topic/head.safetensors", "topic/adapter_model.safetensors"],
}
FILES = [(kind, file) for kind, files in WEIGHTS.items() for file in files]


@pytest.mark.parametrize(("kind", "file"), FILES)
@pytest.mark.parametrize("how", ["cut", "missing"])
def test_a_run_with_a_damaged_file_is_refused(kind: str, file: str, how: str, copied: Callable[[str], Path]) -> None:
    folder = copied(kind)
    path = folder / "model" / file
    content = path.read_bytes()
    path.unlink()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    assert str(path.parent) in refused(folder)


@pytest.mark.parametrize(("kind", "file"), FILES)
def test_a_run_that_lacks_a_weight_is_refused_each_of_them(kind: str, file: str, copied: Callable[[str], Path]) -> None:
    folder = copied(kind)
    path = folder / "model" / file
    # Copies: what is loaded may be a view of the file that is about to be written.
    weights = {name: tensor.clone() for name, tensor in load_file(path).items()}
    for name in random.Random(0).sample(sorted(weights), k=min(4, len(weights))):
        save_file({n: t for n, t in weights.items() if n != name}, path, {"format": "pt"})
        assert "weights" in refused(folder), name
    save_file({}, path, {"format": "pt"})
    refused(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_run_whose_facts_cannot_be_read_is_refused(text: str, copied: Callable[[str], Path]) -> None:
    folder = copied("bert-adapter")
    (folder / "model/topic/task.json").write_text(text)
    assert "task.json cannot be read" in refused(folder)


@pytest.mark.parametrize("order", [["money", "sport", "animals"], ["animals", "money", "a longer name"]])
def test_a_run_whose_labels_were_edited_says_so(order: list[str], copied: Callable[[str], Path]) -> None:
    folder = copied("bert-adapter")
    assert saved_run.open_run(folder, Catalogue.discover()).warnings == ()
    facts = folder / "model/topic/task.json"
    content = json.loads(facts.read_text())
    content["facts"]["labels"] = order
    facts.write_text(json.dumps(content, indent=2))
    (warning,) = saved_run.open_run(folder, Catalogue.discover()).warnings
    assert warning == f"{folder}: model/topic/task.json is not as it was written; 'hft check {folder}' says more"


def test_odd_texts_to_predict_on_are_told_of(runs: Path) -> None:
    saved = saved_run.open_run(runs / "bert-adapter", Catalogue.discover())
    texts = ["the cat", "the [SEP] cat", "\u0b85", "a &amp; b"]

    def told(texts: list[str]) -> list[str]:
        counts: prediction.Counts = {}
        prediction.predict_counted(saved, [{"text": text} for text in texts], ["topic"], counts)
        return row_notes.counted(counts)

    lines = told(texts)
    assert [line.partition("'topic': ")[2].split()[:3] for line in lines] == [
        ["column", "'text'", "holds"],
        ["the", "tokenizer", "of"],
        ["column", "'text'", "holds"],
    ]
    assert "(1 of 4 rows; first: row 2 of task 'topic')" in lines[0]
    assert told(["the cat"]) == []


def test_the_facts_of_a_run_are_its_labels(runs: Path) -> None:
    facts = json.loads((runs / "bert-adapter/model/topic/task.json").read_text())
    assert facts == {"facts": {"labels": ["animals", "money", "sport"], "pooling": "family"}}
