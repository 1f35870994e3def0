"""Strategies that choose which of the trunk's own parameters train, when, and how far."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import AdamW

from hft_core.errors import PluginError
from hft_core.strategy import Strategy
from hft_plugins.backbones import decoder, encoder
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions, opens_decoder
from hft_plugins.strategies.selective import bitfit, gradual_unfreezing, l2_sp, layer_norm, layerwise_decay

MODELS = ["bert", "roberta", "distilbert", "modernbert", "llama", "gpt2"]
LAYER_PREFIX = {
    "bert": "encoder.layer.",
    "roberta": "encoder.layer.",
    "distilbert": "transformer.layer.",
    "modernbert": "layers.",
    "llama": "layers.",
    "gpt2": "h.",
}
ABOVE = {"modernbert": ("final_norm.",), "llama": ("norm.",), "gpt2": ("ln_f.",)}


def opened(models: Any, name: str) -> Any:
    path = str(models[name])
    if opens_decoder(path):
        return decoder.build(DecoderOptions(model=path, dropout=0.0))
    return encoder.build(EncoderOptions(model=path, dropout=0.0))


def trained(backbone: Any) -> dict[str, int]:
    """The sizes of the trunk's parameters that train, by name."""
    return {name: p.numel() for name, p in backbone.trunk.named_parameters() if p.requires_grad}


def run_steps(backbone: Any, strategy: Strategy, rows: list[dict[str, Any]], count: int) -> set[str]:
    """AdamW without weight decay on what trains; the parameters that changed in any bit."""
    before = {name: p.detach().clone() for name, p in backbone.trunk.named_parameters()}
    optimizer = AdamW([p for p in backbone.trunk.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    inputs = dict(backbone.tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt"))
    strategy.begin(backbone, count)
    for step in range(count):
        strategy.step_started(backbone, step)
        hidden = strategy.forward(backbone, inputs, [("t", slice(0, len(rows)))])
        # Not the sum: behind a layer norm it is a constant.
        loss = (hidden * torch.linspace(-1, 1, hidden.shape[-1])).pow(2).mean()
        penalty = strategy.penalty(backbone)
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        strategy.step_finished(backbone, step)
        optimizer.zero_grad()
    return {name for name, p in backbone.trunk.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "gpt2"])
def test_bitfit_trains_every_bias_and_nothing_else(name: str, models: Any, toys: Any) -> None:
    backbone = opened(models, name)
    strategy = bitfit.build(bitfit.Options())
    strategy.apply(backbone, ("t",))
    chosen = trained(backbone)
    assert set(chosen) == {n for n, _ in backbone.trunk.named_parameters() if n.endswith(".bias")}
    moved = run_steps(backbone, strategy, toys.rows(4), 2)
    assert moved <= set(chosen)
    # A key's bias shifts all of a query's attention scores alike, so that its gradient is 0 but for rounding.
    assert {n for n in set(chosen) - moved if not n.endswith(("key.bias", "k_lin.bias"))} == set()


def test_bitfit_trains_as_many_parameters_as_a_count_by_hand(models: Any) -> None:
    backbone = opened(models, "bert")
    bitfit.build(bitfit.Options()).apply(backbone, ("t",))
    # The embeddings' norm; in each of two layers query, key, value, attention output, norm, up to 48, down, norm.
    assert sum(trained(backbone).values()) == 32 + 2 * (4 * 32 + 32 + 48 + 32 + 32)


@pytest.mark.parametrize("name", ["llama", "modernbert"])
def test_bitfit_refuses_a_trunk_without_biases_in_one_line(name: str, models: Any) -> None:
    with pytest.raises(PluginError, match=r"^strategy 'bitfit': (Llama|ModernBert)Model has no biases[^\n]*$"):
        bitfit.build(bitfit.Options()).apply(opened(models, name), ("t",))


@pytest.mark.parametrize("name", MODELS)
def test_layer_norm_trains_the_norms_and_nothing_else(name: str, models: Any, toys: Any) -> None:
    backbone = opened(models, name)
    strategy = layer_norm.build(layer_norm.Options())
    strategy.apply(backbone, ("t",))
    chosen = trained(backbone)
    marks = ("LayerNorm.", "layer_norm.", "layernorm.", "norm.", "ln_1.", "ln_2.", "ln_f.")
    assert set(chosen) == {n for n, _ in backbone.trunk.named_parameters() if any(mark in n for mark in marks)}
    assert run_steps(backbone, strategy, toys.rows(4), 2) == set(chosen)


def test_layer_norm_trains_as_many_parameters_as_a_count_by_hand(models: Any) -> None:
    for name, count in (("bert", 5 * 2 * 32), ("llama", 5 * 32), ("gpt2", 5 * 2 * 32)):
        backbone = opened(models, name)
        layer_norm.build(layer_norm.Options()).apply(backbone, ("t",))
        assert sum(trained(backbone).values()) == count, name


@pytest.mark.parametrize("name", MODELS)
def test_layerwise_decay_gives_each_layer_the_factor_of_its_depth(name: str, models: Any) -> None:
    backbone = opened(models, name)
    strategy = layerwise_decay.build(layerwise_decay.Options(decay=0.5))
    strategy.apply(backbone, ("t",))
    factors = strategy.rate_factors(backbone)
    names = {p: n for n, p in backbone.trunk.named_parameters()}
    assert set(trained(backbone)) == set(names.values())
    for parameter, parameter_name in names.items():
        expected = 0.125
        if parameter_name.startswith(LAYER_PREFIX[name]):
            expected = {"0": 0.25, "1": 0.5}[parameter_name.removeprefix(LAYER_PREFIX[name])[0]]
        elif parameter_name.startswith(ABOVE.get(name, ("-",))):
            expected = 1.0
        assert factors.get(parameter, 1.0) == expected, parameter_name


def test_gradual_unfreezing_lets_one_more_layer_train_after_so_many_steps(models: Any) -> None:
    backbone = opened(models, "gpt2")
    strategy = gradual_unfreezing.build(gradual_unfreezing.Options(steps=3))
    strategy.apply(backbone, ("t",))
    assert all(p.requires_grad for p in backbone.trunk.parameters())  # all may train at some time
    strategy.begin(backbone, 100)
    top, lower, rest = ("h.1.", "ln_f."), ("h.0.",), ("wte.", "wpe.")
    for step, expected in ((0, top), (2, top), (3, top + lower), (5, top + lower), (6, top + lower + rest)):
        strategy.step_started(backbone, step)
        every = {name for name, _ in backbone.trunk.named_parameters()}
        assert set(trained(backbone)) == {name for name in every if name.startswith(expected)}, step


def test_gradual_unfreezing_reaches_the_embeddings_after_its_share_of_the_stage(models: Any) -> None:
    backbone = opened(models, "bert")
    strategy = gradual_unfreezing.build(gradual_unfreezing.Options(share=0.4))
    strategy.apply(backbone, ("t",))
    strategy.begin(backbone, 50)
    first: dict[str, int] = {}
    for step in range(50):
        strategy.step_started(backbone, step)
        for name in trained(backbone):
            first.setdefault(name, step)
    assert {step for name, step in first.items() if name.startswith("encoder.layer.1.")} == {0}
    assert {step for name, step in first.items() if name.startswith("encoder.layer.0.")} == {10}
    assert {step for name, step in first.items() if name.startswith("embeddings.")} == {20}


def test_a_stage_that_goes_on_at_a_later_step_unfreezes_as_if_it_had_never_stopped(models: Any) -> None:
    once, again = opened(models, "bert"), opened(models, "bert")
    for backbone, steps in ((once, range(8)), (again, [7])):
        strategy = gradual_unfreezing.build(gradual_unfreezing.Options(share=1.0))
        strategy.apply(backbone, ("t",))
        strategy.begin(backbone, 10)
        for step in steps:
            strategy.step_started(backbone, step)
    assert trained(once) == trained(again)
    assert 0 < len(trained(once)) < len(list(once.trunk.parameters()))


def test_gradual_unfreezing_keeps_the_bytes_of_what_has_not_joined_yet(models: Any, toys: Any) -> None:
    backbone = opened(models, "bert")
    strategy = gradual_unfreezing.build(gradual_unfreezing.Options(steps=2))
    strategy.apply(backbone, ("t",))
    moved = run_steps(backbone, strategy, toys.rows(4), 3)
    assert {name.split(".")[0] for name in moved} == {"encoder"}
    backbone = opened(models, "bert")
    strategy.apply(backbone, ("t",))
    moved = run_steps(backbone, strategy, toys.rows(4), 2)
    assert all(name.startswith("encoder.layer.1.") for name in moved) and moved


def test_equals_the_l2_sp_penalty_by_hand_in_value_and_gradient(models: Any) -> None:
    backbone = opened(models, "bert")
    strategy = l2_sp.build(l2_sp.Options(alpha=0.3))
    strategy.apply(backbone, ("t",))
    strategy.begin(backbone, 1)
    assert penalty_of(strategy, backbone).item() == 0.0
    torch.manual_seed(0)
    changes: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, p in backbone.trunk.named_parameters():
            before = p.clone()
            p += 0.1 * torch.randn_like(p)
            changes[name] = p - before
    penalty = penalty_of(strategy, backbone)
    expected = 0.15 * sum(float(change.double().pow(2).sum()) for change in changes.values())
    assert penalty.item() == pytest.approx(expected, rel=1e-5)
    penalty.backward()  # type: ignore[no-untyped-call]
    for name, p in backbone.trunk.named_parameters():
        torch.testing.assert_close(p.grad, 0.3 * changes[name], atol=1e-7, rtol=1e-5)


def penalty_of(strategy: Strategy, backbone: Any) -> Tensor:
    penalty = strategy.penalty(backbone)
    assert penalty is not None
    return penalty


def test_l2_sp_keeps_the_trunk_nearer_to_its_start(models: Any, toys: Any) -> None:
    distances = []
    for alpha in (1e-6, 10.0):
        backbone, start = opened(models, "bert"), opened(models, "bert")
        strategy = l2_sp.build(l2_sp.Options(alpha=alpha))
        strategy.apply(backbone, ("t",))
        run_steps(backbone, strategy, toys.rows(4), 10)
        pairs = zip(backbone.trunk.parameters(), start.trunk.parameters(), strict=True)
        distances.append(sum(float((p - p0).detach().pow(2).sum()) for p, p0 in pairs))
    assert distances[1] < 0.5 * distances[0]


def test_l2_sp_draws_back_to_the_same_start_after_it_was_stopped(models: Any) -> None:
    backbone = opened(models, "bert")
    strategy = l2_sp.build(l2_sp.Options())
    strategy.apply(backbone, ("t",))
    kept = {name: tensor.clone() for name, tensor in strategy.state().items()}
    with torch.no_grad():
        for parameter in backbone.trunk.parameters():
            parameter += 0.1
    moved_on = l2_sp.build(l2_sp.Options())
    moved_on.apply(backbone, ("t",))
    moved_on.begin(backbone, 1)
    assert penalty_of(moved_on, backbone).item() == 0.0
    moved_on.load_state(kept)
    assert penalty_of(moved_on, backbone).item() == penalty_of(strategy, backbone).item() > 0


@pytest.mark.parametrize(
    "build",
    [
        lambda: layer_norm.build(layer_norm.Options()),
        lambda: bitfit.build(bitfit.Options()),
        lambda: layerwise_decay.build(layerwise_decay.Options()),
        lambda: gradual_unfreezing.build(gradual_unfreezing.Options()),
        lambda: l2_sp.build(l2_sp.Options()),
    ],
)
def test_what_only_chooses_adds_nothing_to_the_trunk(build: Any, models: Any) -> None:
    backbone = opened(models, "bert")
    before = {name: tensor.clone() for name, tensor in backbone.trunk.state_dict().items()}
    strategy: Strategy = build()
    strategy.apply(backbone, ("t",))
    strategy.fold(backbone)
    after = strategy.base_state(backbone)
    assert set(before) == set(after)
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
