"""int8 layers in the trunk of a finished run: answers near those without, and nothing else is touched."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.nn.quantized.dynamic import Linear as Int8Linear

import hft_core
from hft_core import Catalogue, UsageError
from hft_core.cli import main
from hft_core.device.machine import find_machine
from hft_core.predict import quantization
from hft_core.predict.prediction import evaluate, predict
from hft_core.predict.saved_run import SavedRun
from hft_plugins.heads.parts.example_rows import token_classification

TOPIC = {"topic": {"head": "classification"}}
TASKS = {**TOPIC, "score": {"head": "regression", "label": "score"}, "ner": {"head": "token-classification"}}
ADAPTERS = {
    "lora": {"type": "lora", "r": 4},
    "dora": {"type": "dora", "r": 4},
    "prefix": {"type": "prefix", "num_virtual_tokens": 4},
    "bottleneck": {"type": "bottleneck", "bottleneck_size": 4},
    "task-lora": {"type": "task-lora", "r": 4},
    "mtl-lora": {"type": "mtl-lora", "r": 4},
    "task-bottleneck": {"type": "task-bottleneck", "bottleneck_size": 4},
}
Opener = Callable[..., SavedRun]


@pytest.fixture(scope="module")
def opened(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """Opens a finished run of a model under a strategy, which is made once."""
    place = tmp_path_factory.mktemp("runs")

    def opener(model: str, strategy: str, *, int8: bool = False) -> SavedRun:
        folder = place / f"{model}-{strategy}"
        if not folder.exists():
            settings = {"max_steps": 8, "learning_rate": 0.01, "head_warmup_steps": 0, "eval_strategy": "no"}
            recipe = {
                "backbone": {"model": str(models[model])},
                "tasks": TASKS,
                "stages": [{"strategy": ADAPTERS.get(strategy, strategy), **settings}],
                "precision": "fp32",
            }
            hft_core.run(recipe, data={task: rows_of(task, toys, 40, 0) for task in TASKS}, output=folder)
        return hft_core.open_run(folder, Catalogue.discover(), int8=int8)

    return opener


def rows_of(task: str, toys: ModuleType, count: int, seed: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = token_classification(count, seed) if task == "ner" else toys.rows(count, seed=seed)
    return rows


def quantized(module: nn.Module) -> list[str]:
    return [name for name, layer in module.named_modules() if isinstance(layer, Int8Linear)]


def distances(plain: SavedRun, int8: SavedRun, toys: ModuleType) -> dict[str, float]:
    """How far the answers are from one another: probabilities and values at most, losses as a whole."""
    rows = toys.rows(24, seed=9)
    topics = zip(predict(plain, "topic", rows), predict(int8, "topic", rows), strict=True)
    scores = zip(predict(plain, "score", rows), predict(int8, "score", rows), strict=True)
    tagged = rows_of("ner", toys, 24, 9)
    return {
        "topic": max(abs(a["probabilities"][k] - b["probabilities"][k]) for a, b in topics for k in a["probabilities"]),
        "score": max(abs(a["value"] - b["value"]) for a, b in scores),
        "ner": abs(evaluate(plain, "ner", tagged)["loss"] - evaluate(int8, "ner", tagged)["loss"]),
    }


@pytest.mark.parametrize(
    ("model", "strategy", "bound"),
    [
        ("bert", "full", 0.01),
        ("bert", "frozen", 0.01),
        *[("bert", name, 0.01) for name in ADAPTERS],
        ("roberta", "full", 0.01),
        ("bart", "lora", 0.03),
        ("llama", "full", 0.15),
        ("llama", "lora", 0.15),
        ("llama", "task-lora", 0.15),
    ],
)
def test_answers_are_near_those_without(
    model: str, strategy: str, bound: float, opened: Opener, toys: ModuleType
) -> None:
    plain, int8 = opened(model, strategy), opened(model, strategy, int8=True)
    found = distances(plain, int8, toys)
    assert all(0 < distance < bound for distance in found.values()), found


@pytest.mark.parametrize("strategy", ["full", *ADAPTERS])
def test_the_trunks_own_linear_layers_are_int8_and_nothing_else(strategy: str, opened: Opener) -> None:
    model = opened("bert", strategy, int8=True).model
    layers = quantized(model.trunk)
    assert len(layers) == 2 * 6, "queries, keys, values and three products above them, in two layers"
    assert not quantized(model.heads)
    left = [name for name, module in model.trunk.named_modules() if type(module) is nn.Linear]
    assert all("encoder" not in name or ".down" in name or ".up" in name for name in left), left
    assert model.trunk.embeddings.word_embeddings.weight.dtype == torch.float32


@pytest.mark.parametrize(("strategy", "merged"), [("lora", True), ("dora", True), ("task-lora", False)])
def test_what_can_be_merged_is_and_what_cannot_stays_beside_int8_layers(
    strategy: str, merged: bool, opened: Opener
) -> None:
    layers = quantized(opened("bert", strategy, int8=True).model.trunk)
    assert all(name.endswith(".base_layer") != merged for name in layers)


def test_a_run_folder_is_as_it_was(opened: Opener, toys: ModuleType) -> None:
    folder = opened("bert", "lora").folder
    before = contents(folder)
    predict(opened("bert", "lora", int8=True), "topic", toys.rows(3, seed=9))
    assert contents(folder) == before


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_run_in_bfloat16_computes_its_int8_layers_all_the_same(models: Any, toys: ModuleType, tmp_path: Path) -> None:
    recipe = {"backbone": {"model": str(models["bert"])}, "tasks": TOPIC, "stages": [{"max_steps": 2}]}
    hft_core.run({**recipe, "precision": "bf16"}, data={"topic": toys.rows(20)}, output=tmp_path / "run")
    plain, int8 = (hft_core.open_run(tmp_path / "run", Catalogue.discover(), int8=int8) for int8 in (False, True))
    rows = toys.rows(8, seed=9)
    for a, b in zip(predict(plain, "topic", rows), predict(int8, "topic", rows), strict=True):
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=0.02)
    assert plain.machine is not None and plain.machine.precision.name == "bf16"
    assert int8.machine is not None and int8.machine.precision.name == "fp32"


def test_an_encoder_decoder_writes_with_int8_layers(models: Any, toys: ModuleType, tmp_path: Path) -> None:
    tasks = {"write": {"head": "seq2seq", "source": "text", "target": "text"}}
    stage = {"max_steps": 2, "eval_strategy": "no"}
    recipe = {"backbone": {"model": str(models["bart"])}, "tasks": tasks, "stages": [stage], "precision": "fp32"}
    hft_core.run(recipe, data={"write": toys.rows(20)}, output=tmp_path / "run")
    int8 = hft_core.open_run(tmp_path / "run", Catalogue.discover(), int8=True)
    assert len(quantized(int8.model.trunk)) == 2 * 6 + 3 * 10
    assert [type(answer["text"]) for answer in predict(int8, "write", toys.rows(3, seed=9))] == [str] * 3


def test_torchs_farewell_to_its_quantization_is_not_repeated(opened: Opener) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        opened("bert", "full", int8=True)
    assert not [str(each.message) for each in told if "quantiz" in str(each.message)]


# --- what cannot be


def test_a_trunk_without_linear_layers_is_refused(opened: Opener) -> None:
    with pytest.raises(UsageError, match="GPT2Model has no linear layers"):
        opened("gpt2", "full", int8=True)


class _Reader(nn.Module):
    """Computes with the weights of a layer instead of calling it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.layer.weight, self.layer.bias)


def test_a_module_that_reads_the_weights_of_its_layers_is_refused(opened: Opener) -> None:
    model = opened("bert", "full").model
    output = model.trunk.encoder.layer[0].output
    output.dense = _Reader(output.dense)
    with pytest.raises(UsageError, match="BertModel, with what its strategy added, does not work with quantized") as e:
        quantization.quantize(model, merges=True)
    assert "\n" not in str(e.value)


def test_a_torch_that_has_no_quantization_is_refused(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.ao.quantization", None)
    with pytest.raises(UsageError, match=r"torch .* has no torch\.ao\.quantization\.quantize_dynamic any more"):
        opened("bert", "full", int8=True)


def test_a_processor_without_an_engine_is_refused(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends, "quantized", SimpleNamespace(engine="none"))
    with pytest.raises(UsageError, match="no engine for int8"):
        opened("bert", "full", int8=True)


def test_another_device_than_the_cpu_is_refused(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    found = replace(find_machine("fp32"), device=torch.device("cuda"))
    monkeypatch.setattr(quantization, "find_machine", lambda *_: found)
    with pytest.raises(UsageError, match="on CPUs alone, and this process on cuda"):
        opened("bert", "full", int8=True)


# --- the command line


@pytest.fixture(scope="module")
def folder(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose rows are in a file."""
    place = tmp_path_factory.mktemp("files")
    (place / "topics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toys.rows(60)))
    recipe = {
        "backbone": {"model": str(models["bert"])},
        "tasks": {"topic": {"head": "classification", "data": str(place / "topics.jsonl")}},
        "stages": [{"max_steps": 4}],
        "precision": "fp32",
    }
    hft_core.run(recipe, output=place / "run")
    return place


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    """What a command prints, and what it says on standard error."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    told = capsys.readouterr()
    return told.out, told.err


def test_evaluate_tells_the_scores_both_ways_and_their_difference(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = json.loads(said(capsys, "evaluate", folder / "run", "--json")[0])
    both = json.loads(said(capsys, "evaluate", folder / "run", "--json", "--int8")[0])
    assert {split: {task: sorted(m) for task, m in tasks.items()} for split, tasks in both.items()} == {
        split: {task: sorted(m) for task, m in tasks.items()} for split, tasks in alone.items()
    }
    for split, tasks in alone.items():
        for name, value in tasks["topic"].items():
            if name == "by_label":
                continue
            found = both[split]["topic"][name]
            assert found["value"] == value
            assert found["difference"] == found["int8"] - value
    losses = both["test"]["topic"]["loss"]
    assert 0 < abs(losses["difference"]) < 0.01
    table = said(capsys, "evaluate", folder / "run", "--int8", "--task", "topic", "--data", folder / "topics.jsonl")[0]
    headings, *lines = (line.split() for line in table.splitlines())
    assert headings == ["split", "task", "metric", "value", "int8", "difference"]
    assert {len(line) for line in lines} == {6}


def test_predict_says_once_that_its_probabilities_are_approximate(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ("the striker saw the referee", "the bank called the broker")
    lines, told = said(capsys, "predict", folder / "run", *texts, "--json", "--int8")
    assert told.count("probabilities are approximate") == 1
    exact, quiet = said(capsys, "predict", folder / "run", *texts, "--json")
    assert "approximate" not in quiet
    for a, b in zip(map(json.loads, lines.splitlines()), map(json.loads, exact.splitlines()), strict=True):
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=0.01)
        assert a["probabilities"] != b["probabilities"]
