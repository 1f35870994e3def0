from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, BertModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hft_core import cpu_dropout
from hft_plugins.backbones import attention

BATCH, HEADS, LENGTH, SIZE = 3, 4, 6, 8
P = 0.25


class Layer(nn.Module):
    """What transformers asks an attention layer for."""

    def __init__(self, groups: int = 1, causal: bool = False) -> None:
        super().__init__()
        self.num_key_value_groups, self.is_causal = groups, causal


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape).requires_grad_()


def masks() -> dict[str, Tensor | None]:
    lengths = torch.tensor([6, 4, 1])
    seen = (torch.arange(LENGTH) < lengths[:, None])[:, None, None, :]
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    return {
        "none": None,
        "padding": seen.expand(BATCH, 1, LENGTH, LENGTH),
        "causal": seen & causal,
        "added": torch.randn(BATCH, 1, LENGTH, LENGTH),
    }


def without_dropping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_dropout, "scaled_mask", lambda shape, p, dtype: torch.ones(shape, dtype=dtype))


@pytest.mark.parametrize("kind", list(masks()))
@pytest.mark.parametrize("groups", [1, 2])
def test_equals_sdpa_when_nothing_is_dropped(kind: str, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    without_dropping(monkeypatch)
    torch.manual_seed(0)
    q = drawn(BATCH, HEADS, LENGTH, SIZE)
    k, v = (drawn(BATCH, HEADS // groups, LENGTH, SIZE) for _ in range(2))
    mask, layer = masks()[kind], Layer(groups)
    ours, _ = attention.attend(layer, q, k, v, mask, dropout=P, scaling=0.3)
    theirs, _ = sdpa_attention_forward(layer, q, k, v, mask, dropout=0.0, scaling=0.3)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    weight = torch.randn_like(ours)
    for one, other in zip(
        *(torch.autograd.grad((out * weight).sum(), (q, k, v)) for out in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_under_autocast_it_is_as_near_to_float32_as_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    without_dropping(monkeypatch)
    torch.manual_seed(1)
    q, k, v = (torch.randn(BATCH, HEADS, LENGTH, SIZE) for _ in range(3))
    mask = masks()["padding"]
    exact, _ = sdpa_attention_forward(Layer(), q, k, v, mask)
    with torch.autocast("cpu", torch.bfloat16):
        ours, _ = attention.attend(Layer(), q, k, v, mask, dropout=P)
    assert ours.dtype == torch.bfloat16
    assert float((ours - exact).abs().max()) < 0.03


def test_attention_weights_are_dropped_and_the_mean_output_is_that_without_dropout() -> None:
    torch.manual_seed(2)
    q, k, v = (torch.randn(1, 2, LENGTH, SIZE) for _ in range(3))
    whole, _ = sdpa_attention_forward(Layer(), q, k, v, None)
    draws = torch.stack([attention.attend(Layer(), q, k, v, None, dropout=P)[0] for _ in range(3000)])
    assert not torch.equal(draws[0], draws[1])
    error = draws.std(dim=0) / 3000**0.5
    assert bool(((draws.mean(dim=0) - whole).abs() < 5 * error).all())


@pytest.mark.parametrize(
    "case",
    [{"dropout": 0.0}, {"dropout": P, "is_causal": True}, {"dropout": P, "position_bias": torch.zeros(1, 1, 6, 6)}],
)
def test_other_cases_are_left_to_sdpa(case: dict[str, Any]) -> None:
    q, k, v = (torch.randn(BATCH, HEADS, LENGTH, SIZE) for _ in range(3))
    torch.manual_seed(3)
    ours, _ = attention.attend(Layer(), q, k, v, None, **case)
    torch.manual_seed(3)
    theirs, _ = sdpa_attention_forward(Layer(), q, k, v, None, **case)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_trunk_is_patched_inside_the_context_only_and_only_instead_of_sdpa(
    implementation: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    called: list[str] = []
    monkeypatch.setattr(
        cpu_dropout, "scaled_mask", lambda shape, p, dtype: called.append("") or torch.ones(shape, dtype=dtype)
    )
    config = BertConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=8, vocab_size=20)
    trunk = AutoModel.from_config(config, attn_implementation=implementation).train()
    assert isinstance(trunk, BertModel)
    ids, mask = torch.randint(20, (2, 5)), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    with attention.patched(trunk):
        trunk(input_ids=ids, attention_mask=mask)
        assert len(called) == (2 if implementation == "sdpa" else 0)
    assert trunk.config._attn_implementation == implementation
    trunk(input_ids=ids, attention_mask=mask)
    assert len(called) == (2 if implementation == "sdpa" else 0)
