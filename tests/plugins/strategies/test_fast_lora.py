from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hft_plugins.strategies.peft import fast_lora

SHAPES = [(5, 12), (2, 5, 12), (2, 3, 5, 12)]


def injected(**fields: Any) -> Any:
    """A linear layer with a LoRA that adds something."""
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["0"], **fields)
    trunk = inject_adapter_in_model(config, nn.Sequential(nn.Linear(12, 20))).train()
    nn.init.normal_(trunk[0].lora_B["default"].weight, std=0.3)
    return trunk


def passed(trunk: Any, shape: tuple[int, ...], bf16: bool = False, again: bool = False, seed: int = 1) -> list[Tensor]:
    """The output, and the gradients of the input and of what trains."""
    torch.manual_seed(seed)
    x = torch.randn(shape, requires_grad=True)
    torch.manual_seed(2)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = checkpoint(trunk, x, use_reentrant=False) if again else trunk(x)
    torch.manual_seed(3)
    weight = torch.randn(out.shape)
    trains = [parameter for parameter in trunk.parameters() if parameter.requires_grad]
    return [out, *torch.autograd.grad((out.float() * weight).sum(), [x, *trains])]


def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each fused addition."""
    seen: list[str] = []
    apply = fast_lora._LoraAddition.apply
    monkeypatch.setattr(fast_lora._LoraAddition, "apply", lambda *args: seen.append("") or apply(*args))
    return seen


def test_the_addition_has_the_derivatives_of_its_products() -> None:
    torch.manual_seed(0)
    shapes = ((2, 5, 20), (2, 5, 12), (3, 12), (20, 3))
    base, x, first, second = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    ours = fast_lora._LoraAddition.apply(base, x, first, second)
    torch.testing.assert_close(ours, base + x @ first.T @ second.T)
    assert torch.autograd.gradcheck(fast_lora._LoraAddition.apply, (base, x, first, second))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_recomputed_layer_returns_the_same(
    shape: tuple[int, ...], dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk, seen = injected(lora_dropout=dropout), calls(monkeypatch)
    with fast_lora.patched(trunk):
        once, twice = (passed(trunk, shape, bf16=True, again=again) for again in (False, True))
    assert len(seen) == 3
    assert all(torch.equal(one, other) for one, other in zip(once, twice, strict=True))


def test_float32_is_bit_identical_to_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk, seen = injected(), calls(monkeypatch)
    expected = passed(trunk, (2, 5, 12))
    with fast_lora.patched(trunk):
        ours = passed(trunk, (2, 5, 12))
    assert not seen
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_under_autocast_it_is_as_close_to_float32_as_peft(dropout: float) -> None:
    """On the average of many inputs: what a single one is rounded to is chance."""
    trunk = injected(lora_dropout=dropout)
    errors = []
    for seed in range(40):
        exact, theirs = (passed(trunk, (8, 40, 12), bf16, seed=seed) for bf16 in (False, True))
        with fast_lora.patched(trunk):
            ours = passed(trunk, (8, 40, 12), bf16=True, seed=seed)
        assert [each.dtype for each in ours] == [each.dtype for each in theirs]
        pairs = zip((ours, theirs), (exact, exact), strict=True)
        errors.append(
            [[float(((a.float() - b).norm() / b.norm()).detach()) for a, b in zip(*p, strict=True)] for p in pairs]
        )
    mine, plain = torch.tensor(errors).mean(dim=0)
    assert float(mine.max()) < 2**-7  # bfloat16 has 8 bits
    assert bool((mine <= 1.03 * plain).all()), (mine, plain)


@pytest.mark.parametrize("fields", [{"use_dora": True}, {"lora_bias": True}], ids=str)
def test_layers_that_are_not_plain_are_left_to_peft(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    trunk, seen = injected(**fields), calls(monkeypatch)
    expected = passed(trunk, (5, 12), bf16=True)
    with fast_lora.patched(trunk):
        ours = passed(trunk, (5, 12), bf16=True)
    assert not seen
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))


@pytest.mark.parametrize("change", ["disabled", "merged", "named", "evaluated"])
def test_a_layer_that_changes_inside_is_left_to_peft(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk, seen = injected(), calls(monkeypatch)
    layer, x = trunk[0], torch.ones(2, 12)
    more = {"adapter_names": ["default", "__base__"]} if change == "named" else {}
    with fast_lora.patched(trunk), torch.autocast("cpu", torch.bfloat16):
        if change == "disabled":
            layer.enable_adapters(False)
        elif change == "merged":
            layer.merge()
        elif change == "evaluated":
            layer.eval()
        ours = layer(x, **more)
    assert not seen
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours, layer(x, **more))


def test_factors_with_a_forward_of_their_own_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk, seen = injected(), calls(monkeypatch)
    expected = passed(trunk, (2, 5, 12), bf16=True)
    asked: list[tuple[int, ...]] = []
    factor = trunk[0].lora_A["default"]
    factor.forward = lambda x: asked.append(tuple(x.shape)) or nn.functional.linear(x, factor.weight)
    with fast_lora.patched(trunk):
        ours = passed(trunk, (2, 5, 12), bf16=True)
    assert asked == [(2, 5, 12)]
    assert not seen
    for one, other in zip(ours, expected, strict=True):
        assert float(((one.float() - other.float()).norm() / other.float().norm()).detach()) < 2**-6


def test_nothing_is_overridden_afterwards() -> None:
    trunk = injected()
    with fast_lora.patched(trunk):
        assert "forward" in vars(trunk[0])
    assert "forward" not in vars(trunk[0])
