"""LoRA that begins with a part of the trunk's weights is saved as an ordinary one, on the trunk as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModel

from hft_plugins.backbones import encoder
from hft_plugins.backbones.options import EncoderOptions
from hft_plugins.strategies.peft.any_method import Options, build
from hft_plugins.strategies.peft.injected import Injected

FIELDS: dict[str, dict[str, Any]] = {
    "pissa": {"init_lora_weights": "pissa"},
    "fast-pissa": {"init_lora_weights": "pissa_niter_4"},
    "olora": {"init_lora_weights": "olora"},
    "scaled": {"init_lora_weights": "pissa", "use_rslora": True, "lora_alpha": 6},
    "patterns": {"init_lora_weights": "pissa", "rank_pattern": {"query": 6}, "alpha_pattern": {"value": 3}},
    "biases": {"init_lora_weights": "pissa", "bias": "lora_only"},
}


def opened(models: Any) -> Any:
    return encoder.build(EncoderOptions(model=str(models["bert"]), dropout=0.0))


def applied(backbone: Any, fields: dict[str, Any]) -> Injected:
    options = {"method": "LORA", "r": 4, "target_modules": ["query", "value"], **fields}
    strategy = build(Options.model_validate(options))
    strategy.apply(backbone, ("t",))
    return strategy


def hidden_states(backbone: Any, rows: list[dict[str, Any]]) -> Tensor:
    inputs = backbone.tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    return backbone.forward(dict(inputs))  # type: ignore[no-any-return]


def move(backbone: Any) -> None:
    with torch.no_grad():
        for parameter in backbone.trunk.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn_like(parameter)


@pytest.mark.parametrize("kind", sorted(FIELDS))
def test_what_is_saved_belongs_on_the_trunk_as_it_was(kind: str, models: Any, toys: Any, tmp_path: Path) -> None:
    backbone, rows = opened(models), toys.rows(4)
    before = {name: tensor.clone() for name, tensor in backbone.trunk.state_dict().items()}
    with torch.no_grad():
        start = hidden_states(backbone, rows)
        strategy = applied(backbone, FIELDS[kind])
        torch.testing.assert_close(hidden_states(backbone, rows), start, atol=1e-5, rtol=0)
        inside = dict(backbone.trunk.named_parameters())["encoder.layer.0.attention.self.query.base_layer.weight"]
        assert float((inside - before["encoder.layer.0.attention.self.query.weight"]).abs().max()) > 1e-2
        move(backbone)
        expected = hidden_states(backbone, rows)
    base = strategy.base_state(backbone)
    kept = {name for name in base if kind != "biases" or not name.endswith("bias")}
    assert all(torch.equal(base[name], before[name]) for name in kept)
    strategy.save_adapter(backbone, "t", tmp_path, str(models["bert"]), "", {})
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["init_lora_weights"] is True
    assert config["r"] == 8

    plain = PeftModel.from_pretrained(AutoModel.from_pretrained(models["bert"]), tmp_path).eval()
    inputs = backbone.tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    other = opened(models)
    again = applied(other, FIELDS[kind])
    with torch.no_grad():
        torch.testing.assert_close(plain(**inputs).last_hidden_state, expected, atol=1e-5, rtol=0)
        for _ in range(2):  # as for two tasks
            again.load_adapter(other, "t", tmp_path, ())
        torch.testing.assert_close(hidden_states(other, rows), expected, atol=1e-5, rtol=0)
        again.save_adapter(other, "t", tmp_path / "again", str(models["bert"]), "", {})
        assert json.loads((tmp_path / "again" / "adapter_config.json").read_text())["r"] == 8
        for strategy_, trunk in ((strategy, backbone), (again, other)):
            strategy_.fold(trunk)
            torch.testing.assert_close(hidden_states(trunk, rows), expected, atol=1e-5, rtol=0)
    assert list(other.trunk.state_dict()) == list(before)


@pytest.mark.parametrize("kind", ["fast-pissa", "pissa"])
def test_a_stage_that_is_resumed_begins_with_the_same_factors(kind: str, models: Any) -> None:
    states = []
    for seed in range(2):
        torch.manual_seed(seed)
        backbone = opened(models)
        applied(backbone, FIELDS[kind])
        states.append(backbone.trunk.state_dict())
        assert torch.initial_seed() == seed
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
