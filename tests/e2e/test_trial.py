"""The trial before a run: what it refuses, what it says, and that it leaves no trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hft_core
from hft_core import ModelError
from hft_core.acceleration import frozen_prefix
from hft_core.backbone import Backbone
from hft_core.device.machine import find_machine
from hft_core.device.precision import Precision
from hft_core.runs import assembly, opening, trials
from hft_core.strategy import Strategy, TaskRows

REFUSALS = {
    "sees later tokens": "earlier positions change with the last token",
    "depends on padding": "the hidden states of a row in a padded batch differ",
    "not finite": "the hidden states hold values that are not finite",
    "trains nothing that is used": "nothing in the trunk that should train gets a gradient",
    "infinite gradients": "a gradient of the trunk is not finite",
    "folds into something else": "folded into the trunk, as the next stage needs it, it changes the hidden states",
}


class Infinite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * float("inf")


class Faulty(Strategy):
    """A strategy with one fault."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.adapter = fault == "depends on padding"

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        backbone.trunk.requires_grad_(self.fault != "trains nothing that is used")
        if self.fault == "trains nothing that is used":
            backbone.trunk.add_module("unused", nn.Linear(2, 2))

    def forward(self, backbone: Backbone, inputs: Mapping[str, Tensor], rows: TaskRows) -> Tensor:
        hidden = super().forward(backbone, inputs, rows)
        if self.fault == "sees later tokens":
            real = inputs["attention_mask"].unsqueeze(-1)
            return hidden + (hidden * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True)
        if self.fault == "rounds otherwise in a batch" and torch.is_autocast_enabled("cpu"):
            scale = 1.0 if len(hidden) == 1 else 1.3
            return (hidden.float() * scale).bfloat16().float() / scale
        if self.fault == "depends on padding":
            return hidden + hidden.mean(dim=1, keepdim=True)
        if self.fault == "not finite":
            return hidden / 0
        return Infinite.apply(hidden) if self.fault == "infinite gradients" else hidden

    def fold(self, backbone: Backbone) -> None:
        if self.fault == "folds into something else":
            with torch.no_grad():
                next(p for n, p in backbone.trunk.named_parameters() if n.endswith("norm.weight")).mul_(2)


def recipe(model: Any, *strategies: Any, head: str = "classification", **more: Any) -> dict[str, Any]:
    stages = [{"strategy": strategy, "max_steps": 2} for strategy in strategies]
    return {
        "backbone": {"model": str(model)},
        "tasks": {"t": {"head": head}},
        "stages": stages,
        "precision": "fp32",
        **more,
    }


def data(toys: ModuleType) -> dict[str, Any]:
    return {"t": {"train": toys.rows(24), "dev": toys.rows(8, seed=1)}}


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_strategy_that_would_learn_something_else_is_refused_before_anything_is_written(
    fault: str, models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "strategy_of", lambda stage: Faulty(fault))
    with pytest.raises(ModelError, match=f"stage 'stage-1', strategy 'full': on a trial batch, {REFUSALS[fault]}"):
        hft_core.run(recipe(models["llama"], "full", "full"), output=tmp_path / "run", data=data(toys))
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize("strategies", [("full",), ("lora",), ("lora", "full"), ("task-lora",), ("pissa",)])
def test_it_changes_nothing_of_the_run(
    strategies: Any, models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = recipe(models["bert"], *strategies)
    hft_core.run(given, output=tmp_path / "tried", data=data(toys))
    monkeypatch.setattr(opening, "try_run", lambda built, machine, wanted: (trials.Findings(), machine))
    hft_core.run(given, output=tmp_path / "untried", data=data(toys))
    files = sorted(path.relative_to(tmp_path / "tried") for path in (tmp_path / "tried/model").rglob("*.safetensors"))
    assert files
    for file in files:
        assert (tmp_path / "tried" / file).read_bytes() == (tmp_path / "untried" / file).read_bytes(), file


@pytest.mark.parametrize("fault", ["depends on padding", "rounds otherwise in a batch"])
def test_the_rounding_of_bfloat16_is_no_dependence_on_other_rows(
    fault: str, models: Any, toys: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(frozen_prefix.TOLERANCES, torch.bfloat16, 1e-3)  # a real decoder's rounding is beyond 0.05
    monkeypatch.setattr(assembly, "strategy_of", lambda stage: Faulty(fault))
    given = {**recipe(models["llama"], "full"), "precision": "bf16"}
    if fault in REFUSALS:
        with pytest.raises(ModelError, match=REFUSALS[fault]):
            hft_core.run(given, data=data(toys))
    else:
        result = hft_core.run(given, data=data(toys))
        assert not any("depend on the rows beside" in warning for warning in result.warnings)


@pytest.mark.parametrize("wanted", ["auto", "bf16"])
def test_bfloat16_that_fails_gives_way_to_float32_where_the_recipe_lets_it(
    wanted: str, models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = replace(find_machine("fp32"), precision=Precision("bf16", "for the test", 1.0))
    monkeypatch.setattr(opening, "find_machine", lambda *_, **__: half)

    def forward(self: Strategy, backbone: Backbone, inputs: Mapping[str, Tensor], rows: TaskRows) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("value cannot be converted to type c10::BFloat16 without overflow")
        return backbone.forward(inputs)

    monkeypatch.setattr(Strategy, "forward", forward)
    given = {**recipe(models["bert"], "full"), "precision": wanted}
    if wanted == "bf16":
        with pytest.raises(ModelError, match=r"without overflow; in float32 it works: set precision: fp32"):
            hft_core.run(given, output=tmp_path / "run", data=data(toys))
        return
    result = hft_core.run(given, output=tmp_path / "run", data=data(toys))
    assert result.precision == "fp32"
    assert any("bfloat16 was not used" in warning for warning in result.warnings)
    assert "precision: fp32" in (tmp_path / "run" / "recipe.yaml").read_text()


def test_validate_names_the_fast_paths_that_are_left_out(models: Any, toys: ModuleType) -> None:
    from hft_core import Catalogue
    from hft_core.recipe import recipe_file
    from hft_core.recipe.resolve import resolve
    from hft_core.runs.validate import inspect

    given = recipe_file.from_dict(recipe(models["falcon"], "full", head="clm"))
    report = inspect(resolve(given, Catalogue.discover()), host_data=data(toys))
    assert any("the fast path for the backbone is left out for FalconModel" in text for text in report.warnings)
