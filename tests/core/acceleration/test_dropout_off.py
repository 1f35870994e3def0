"""Dropout that drops nothing, to compare passes in training mode."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from hft_core import cpu_dropout
from hft_core.acceleration.dropout_off import dropout_off


def test_neither_torch_nor_the_fast_path_drops_or_draws() -> None:
    values, layer = torch.ones(100), nn.Dropout(0.5).train()
    query = torch.randn(1, 1, 6, 4)
    state = torch.get_rng_state()
    with dropout_off():
        assert torch.equal(layer(values), values)
        assert torch.equal(functional.dropout(values, 0.5), values)
        assert torch.equal(cpu_dropout.dropout(values, 0.5), values)
        attended = functional.scaled_dot_product_attention(query, query, query, None, 0.5)
        named = functional.scaled_dot_product_attention(query, query, query, dropout_p=0.5)
    wanted = functional.scaled_dot_product_attention(query, query, query)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(attended, wanted)
    torch.testing.assert_close(named, wanted)
    assert not torch.equal(layer(values), values)
    assert not torch.equal(cpu_dropout.dropout(values, 0.5), values)
