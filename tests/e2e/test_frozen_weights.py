"""Frozen weights held in bfloat16: two bytes a number while a stage trains, and the same bits as in float32."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers

import hft_core
from hft_core import hookimpl
from hft_core.acceleration import weight_check
from hft_core.model import frozen_weights

STRATEGIES: dict[str, Any] = {
    "lora": {"type": "lora", "r": 4},
    "dora": {"type": "dora", "r": 4},
    "task-lora": {"type": "task-lora", "r": 4},
    "partial": {"type": "partial", "layers": 1},
    "frozen": "frozen",
}


def stored_in_bfloat16(source: Path, folder: Path) -> Path:
    """A checkpoint whose numbers bfloat16 represents."""
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def recipe(model: Path, strategy: Any, **more: Any) -> dict[str, Any]:
    tasks = {"words": {"head": "clm"}, "kind": {"head": "classification"}}
    stages = [{"strategy": strategy, "max_steps": 4, "learning_rate": 0.01, "train_batch_size": 6, **more}]
    return {"backbone": {"model": str(model)}, "tasks": tasks, "stages": stages, "precision": "bf16"}


class Formats:
    """The number formats of the trunk's weights in the steps."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = frozen_weights.in_bfloat16

        def noted(model: Any, held: Any) -> Any:
            self.held.append(sum(p.numel() for p in held))
            return before(model, held)

        monkeypatch.setattr(frozen_weights, "in_bfloat16", noted)


def trained(folder: Path, given: dict[str, Any], toys: ModuleType) -> tuple[hft_core.RunResult, dict[str, Any]]:
    data = {task: {"train": toys.rows(24, seed=0), "dev": toys.rows(8, seed=1)} for task in given["tasks"]}
    losses: dict[str, Any] = {}

    class Losses:
        @hookimpl
        def hft_step_finished(self, event: Any) -> None:
            losses[event.step] = dict(event.losses)

    result = hft_core.run(given, output=folder, data=data, observers=[Losses()])
    return result, losses


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_keeps_every_bit(
    strategy: str, models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = recipe(stored_in_bfloat16(Path(models["llama"]), tmp_path / "base"), STRATEGIES[strategy])
    formats = Formats()
    formats.watch(monkeypatch)
    held = trained(tmp_path / "held", given, toys)
    assert len(formats.held) == 2, "the trial pass and the stage"
    assert min(formats.held) > 0
    monkeypatch.setattr(weight_check, "obstacle", lambda *args, **kwargs: "as the test wants")
    plain = trained(tmp_path / "plain", given, toys)
    assert len(formats.held) == 2
    assert held[1]
    assert held[1] == plain[1]
    assert held[0].final == plain[0].final
    files = sorted(p.relative_to(tmp_path / "held") for p in (tmp_path / "held" / "model").rglob("*.safetensors"))
    assert files
    for file in files:
        assert (tmp_path / "held" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes(), file


def test_weights_that_bfloat16_rounds_stay_as_they_are(
    models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = Formats()
    formats.watch(monkeypatch)
    trained(tmp_path / "run", recipe(Path(models["llama"]), "lora"), toys)
    assert formats.held == []


def test_a_model_opened_in_bfloat16_is_held_and_saved_as_it_was_trained(
    models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = Formats()
    formats.watch(monkeypatch)
    given = recipe(Path(models["llama"]), "lora")
    given["backbone"]["dtype"] = "bf16"
    trained(tmp_path / "run", given, toys)
    assert len(formats.held) == 2
    trunk = transformers.AutoModel.from_pretrained(tmp_path / "run" / "model" / "trunk", dtype=torch.float32)
    original = transformers.AutoModel.from_pretrained(models["llama"], dtype=torch.float32)
    for (name, one), other in zip(trunk.named_parameters(), original.parameters(), strict=True):
        assert torch.equal(one, other.bfloat16().float()), name


def test_the_context_halves_the_bytes_and_gives_the_weights_back(models: Any, tmp_path: Path) -> None:
    from hft_core.model.hybrid import HybridModel
    from hft_plugins.backbones import decoder
    from hft_plugins.backbones.options import DecoderOptions

    folder = stored_in_bfloat16(Path(models["llama"]), tmp_path / "base")
    model = HybridModel(decoder.build(DecoderOptions(model=str(folder))), {})
    model.trunk.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.trunk.named_parameters()}
    held = frozen_weights.representable(model)
    with frozen_weights.in_bfloat16(model, held):
        assert all(p.dtype is torch.bfloat16 for p in held)
        norms = [p for name, p in model.trunk.named_parameters() if "norm" in name]
        assert norms and all(p.dtype is torch.float32 for p in norms)
    for name, parameter in model.trunk.named_parameters():
        assert parameter.dtype is torch.float32
        assert torch.equal(parameter, before[name])
