"""Stop a run, change one thing that it began with, and resume it; and open a finished run whose base model changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import hft_core
from hft_core import Catalogue, UsageError
from hft_core.predict.saved_run import open_run
from hft_core.runtime import signals
from hft_core.runtime.signals import Interrupted

PLUGIN = """
from hft_core import CombinerSpec, hookimpl
from hft_core.combiner import Combiner
from hft_core.options import Options

FACTOR = 1.0

@hookimpl
def hft_combiners():
    return [CombinerSpec(name="mine", summary="Adds up", factory="mine:build", options="mine:Options")]

class Scaled(Combiner):
    def forward(self, losses, present):
        return FACTOR * super().forward(losses, present)

def build(options, *, tasks):
    return Scaled(tuple(tasks))
"""


class Stopped:
    """A LoRA run with a plugin of one file, stopped after three steps."""

    def __init__(self, folder: Path, model: Path, toys: ModuleType) -> None:
        self.model, self.run, self.plugin = folder / "model", folder / "run", folder / "mine.py"
        shutil.copytree(model, self.model)
        self.plugin.write_text(PLUGIN)
        self.data = {"topic": toys.rows(60), "score": toys.rows(60, seed=3)}
        self.recipe = {
            "backbone": str(self.model),
            "tasks": {"topic": {"head": "classification"}, "score": {"head": {"type": "regression", "label": "score"}}},
            "stages": [
                {"strategy": {"type": "lora", "r": 4}, "combiner": "mine", "max_steps": 5, "eval_strategy": "no"}
            ],
            "precision": "fp32",
        }

    def start(self, **options: Any) -> Any:
        catalogue = Catalogue.discover(inline=[self.plugin])
        return hft_core.run(self.recipe, output=self.run, data=self.data, catalogue=catalogue, **options)

    def other_weights(self) -> None:
        state = load_file(self.model / "model.safetensors")
        moved = {name: tensor + 0.2 * torch.randn_like(tensor) for name, tensor in state.items()}
        save_file(moved, self.model / "model.safetensors", metadata={"format": "pt"})

    def other_configuration(self) -> None:
        path = self.model / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "layer_norm_eps": 1e-3}))

    def other_targets(self) -> None:
        self.data["score"] = [{**row, "score": -row["score"]} for row in self.data["score"]]

    def swapped_labels(self) -> None:
        labels = [row["label"] for row in self.data["topic"]]
        names = sorted(set(labels))
        swapped = dict(zip(names, [*names[1:], names[0]], strict=True))
        self.data["topic"] = [{**row, "label": swapped[row["label"]]} for row in self.data["topic"]]

    def one_other_word(self) -> None:
        first, *rest = self.data["score"]
        words = first["text"].split()
        self.data["score"] = [{**first, "text": " ".join([rest[0]["text"].split()[-1], *words[1:]])}, *rest]

    def other_plugin(self) -> None:
        self.plugin.write_text(PLUGIN.replace("FACTOR = 1.0", "FACTOR = -5.0"))


@pytest.fixture
def stopped(models: Any, toys: ModuleType, tmp_path: Path, stop_after: Callable[[int], object]) -> Stopped:
    run = Stopped(tmp_path, models["bert"], toys)
    with signals.listening(), pytest.raises(Interrupted):
        run.start(observers=[stop_after(3)])
    return run


CHANGES = {
    Stopped.other_weights: "the weights of the base model",
    Stopped.other_configuration: "the configuration of the base model",
    Stopped.other_targets: "the rows of task 'score', train",
    Stopped.swapped_labels: "the rows of task 'topic', train",
    Stopped.one_other_word: "the rows of task 'score', ",
    Stopped.other_plugin: "the code of the file of combiner 'mine'",
}


def told(warnings: tuple[str, ...]) -> list[str]:
    """All but that a few steps taught nothing, and that tasks share texts."""
    return [warning for warning in warnings if "ignores the text" not in warning and "texts" not in warning]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_run_is_not_resumed_with_other_inputs_unless_they_are_accepted(
    change: Callable[[Stopped], None], stopped: Stopped
) -> None:
    change(stopped)
    with pytest.raises(UsageError, match="did not begin with what it would be resumed with: ") as refused:
        stopped.start(resume=True)
    assert CHANGES[change] in str(refused.value)
    assert f"hft resume {stopped.run} --accept-changed" in str(refused.value)
    result = stopped.start(resume=True, accept_changed=True)
    assert any(CHANGES[change] in name for name in result.pins.accepted)
    assert [CHANGES[change] in warning for warning in told(result.warnings)] == [True]
    assert json.loads((stopped.run / "results.json").read_text())["pins"]["accepted"] == list(result.pins.accepted)


def test_a_run_that_is_resumed_elsewhere_says_what_that_means(
    stopped: Stopped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "OTHER")
    monkeypatch.setattr("torch.get_num_threads", lambda: 7)
    (warning,) = told(stopped.start(resume=True).warnings)
    assert "is resumed, after step 3 of its stage, by instructions OTHER, 7 threads: its results equal those" in warning
    assert "up to rounding, not bit for bit" in warning


def test_a_finished_run_says_that_its_base_model_is_another(stopped: Stopped) -> None:
    catalogue = Catalogue.discover(inline=[stopped.plugin])
    assert not told(stopped.start(resume=True).warnings)
    assert open_run(stopped.run, catalogue).warnings == ()
    stopped.other_weights()
    (warning,) = open_run(stopped.run, catalogue).warnings
    assert warning.endswith("its predictions may differ: the weights of the base model")
