from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModel

from hft_core.errors import PluginError
from hft_core.strategy import Strategy
from hft_plugins.backbones import decoder, encoder
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions, opens_decoder
from hft_plugins.strategies.peft import lora
from hft_plugins.strategies.selective import frozen, full, partial

MODELS = ["bert", "roberta", "distilbert", "modernbert", "llama", "gpt2"]


def opened(models: Any, name: str) -> Any:
    path = str(models[name])
    if opens_decoder(path):
        return decoder.build(DecoderOptions(model=path, dropout=0.0))
    return encoder.build(EncoderOptions(model=path, dropout=0.0))


def moves(backbone: Any, rows: list[dict[str, Any]]) -> set[str]:
    """The trunk's parameters that a step of gradient descent changes, bit by bit."""
    before = {name: p.detach().clone() for name, p in backbone.trunk.named_parameters()}
    for _ in range(2):  # LoRA's first factor has no gradient before the second moved
        hidden = hidden_states(backbone, rows)
        if not hidden.requires_grad:
            return set()
        backbone.trunk.zero_grad()
        # Not the sum: behind a layer norm it is a constant.
        (hidden * torch.linspace(-1, 1, hidden.shape[-1])).pow(2).sum().backward()
        with torch.no_grad():
            for parameter in backbone.trunk.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad
    return {name for name, p in backbone.trunk.named_parameters() if not torch.equal(p, before[name])}


def hidden_states(backbone: Any, rows: list[dict[str, Any]]) -> Tensor:
    inputs = backbone.tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    return backbone.forward(dict(inputs))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", MODELS)
def test_full_trains_every_parameter(name: str, models: Any, toys: Any) -> None:
    backbone = opened(models, name)
    backbone.trunk.requires_grad_(False)
    full.build(full.Options()).apply(backbone, ("t",))
    every = {name for name, _ in backbone.trunk.named_parameters()}
    still = every - moves(backbone, toys.rows(4))
    # A key's bias shifts all of a query's attention scores alike, so that its gradient is 0 but for rounding.
    assert {name for name in still if not name.endswith(("key.bias", "k_lin.bias"))} == set()


@pytest.mark.parametrize("name", MODELS)
def test_frozen_trains_nothing(name: str, models: Any, toys: Any) -> None:
    backbone = opened(models, name)
    frozen.build(frozen.Options()).apply(backbone, ("t",))
    assert not any(p.requires_grad for p in backbone.trunk.parameters())
    assert moves(backbone, toys.rows(4)) == set()


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("bert", "encoder.layer.1."),
        ("roberta", "encoder.layer.1."),
        ("distilbert", "transformer.layer.1."),
        ("modernbert", ("layers.1.", "final_norm.")),
        ("llama", ("layers.1.", "norm.")),
        ("gpt2", ("h.1.", "ln_f.")),
    ],
)
def test_partial_trains_the_top_layers_and_what_follows_them(
    name: str, trained: str | tuple[str, ...], models: Any, toys: Any
) -> None:
    backbone = opened(models, name)
    partial.build(partial.Options(layers=1)).apply(backbone, ("t",))
    chosen = {name for name, p in backbone.trunk.named_parameters() if p.requires_grad}
    assert chosen == {name for name, _ in backbone.trunk.named_parameters() if name.startswith(trained)}
    moved = moves(backbone, toys.rows(4))
    assert moved <= chosen
    assert {name for name in chosen - moved if not name.endswith(("key.bias", "k_lin.bias"))} == set()


def test_partial_of_more_layers_than_there_are_is_refused(models: Any) -> None:
    with pytest.raises(PluginError, match="layers is 5, but the trunk has 2"):
        partial.build(partial.Options(layers=5)).apply(opened(models, "bert"), ("t",))


@pytest.mark.parametrize("name", MODELS)
def test_lora_is_zero_at_first_then_moves_alone_and_folds_into_the_same_function(
    name: str, models: Any, toys: Any
) -> None:
    backbone, rows = opened(models, name), toys.rows(4)
    names = [name for name, _ in backbone.trunk.named_parameters()]
    with torch.no_grad():
        plain = hidden_states(backbone, rows)
    strategy = lora.build(lora.Options(r=4))
    strategy.apply(backbone, ("t",))
    with torch.no_grad():
        torch.testing.assert_close(hidden_states(backbone, rows), plain, atol=1e-6, rtol=0)
    moved = moves(backbone, rows)
    assert moved == {name for name, p in backbone.trunk.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in moved)
    base = {name: tensor.clone() for name, tensor in strategy.base_state(backbone).items()}
    with torch.no_grad():
        adapted = hidden_states(backbone, rows)
        assert float((adapted - plain).abs().max()) > 1e-3
        strategy.fold(backbone)
        torch.testing.assert_close(hidden_states(backbone, rows), adapted, atol=5e-5, rtol=0)
    assert [name for name, _ in backbone.trunk.named_parameters()] == names
    assert not hasattr(backbone.trunk, "peft_config")
    assert set(base) == set(backbone.trunk.state_dict())
    original = opened(models, name).trunk.state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in base.items())


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
def test_lora_adds_to_the_layers_that_peft_adds_to(name: str, models: Any) -> None:
    backbone = opened(models, name)
    lora.build(lora.Options(r=4)).apply(backbone, ("t",))
    reference = get_peft_model(AutoModel.from_pretrained(models[name]), LoraConfig(r=4, target_modules="all-linear"))
    prefix = "base_model.model."
    expected = {
        n.removeprefix(prefix) for n, p in reference.named_parameters() if p.requires_grad and "pooler" not in n
    }
    assert {n for n, p in backbone.trunk.named_parameters() if p.requires_grad} == expected


def test_lora_scales_by_twice_the_rank_unless_told_otherwise() -> None:
    assert lora.build(lora.Options(r=6)).config.lora_alpha == 12  # type: ignore[attr-defined]
    assert lora.build(lora.Options(r=6, lora_alpha=3)).config.lora_alpha == 3  # type: ignore[attr-defined]


def test_layers_that_the_trunk_does_not_have_are_refused_in_one_line(models: Any) -> None:
    strategy = lora.build(lora.Options(target_modules=("q_prj",)))
    with pytest.raises(PluginError, match=r"^strategy 'lora': PEFT refuses: [^\n]*q_prj[^\n]*$"):
        strategy.apply(opened(models, "bert"), ("t",))


@pytest.mark.parametrize("build", [lambda: full.build(full.Options()), lambda: frozen.build(frozen.Options())])
def test_a_strategy_that_adds_nothing_folds_into_the_trunk_that_is_there(build: Any, models: Any) -> None:
    backbone = opened(models, "bert")
    strategy: Strategy = build()
    strategy.apply(backbone, ("t",))
    before = {name: tensor.clone() for name, tensor in backbone.trunk.state_dict().items()}
    strategy.fold(backbone)
    assert all(torch.equal(tensor, before[name]) for name, tensor in strategy.base_state(backbone).items())
    assert set(before) == set(strategy.base_state(backbone))
