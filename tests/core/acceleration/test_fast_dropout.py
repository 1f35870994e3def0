from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hft_core.acceleration import fast_dropout

DRAWN = 1_000_001


@pytest.mark.parametrize("p", [0.002, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_value_is_dropped_with_its_chance_and_the_mean_is_kept(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    found = fast_dropout.factors((DRAWN,), p, dtype)
    assert found.dtype == dtype
    dropped = float((found == 0).double().mean())
    assert dropped == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / DRAWN) + 0.5 / fast_dropout.LEVELS)
    kept = found[found != 0]
    assert len(kept.unique()) == 1
    assert float(kept[0]) == pytest.approx(1 / (1 - p), rel=1e-2 if dtype == torch.bfloat16 else 1e-4)


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 5, 8, 64, 384])
def test_one_value_says_nothing_about_another(distance: int) -> None:
    """The correlation of values so far apart, four of which come from one number."""
    torch.manual_seed(1)
    dropped = (fast_dropout.factors((DRAWN,), 0.3, torch.float32) == 0).double()
    together = torch.stack([dropped[:-distance], dropped[distance:]])
    assert abs(float(torch.corrcoef(together)[0, 1])) < 4 / math.sqrt(DRAWN)


def test_what_is_dropped_follows_from_the_state_of_torchs_generator() -> None:
    torch.manual_seed(2)
    state = torch.get_rng_state()
    first, second = (fast_dropout.factors((3, 5, 7), 0.5, torch.float32) for _ in range(2))
    torch.set_rng_state(state)
    assert torch.equal(fast_dropout.factors((3, 5, 7), 0.5, torch.float32), first)
    assert not torch.equal(first, second)


def test_a_gradient_passes_where_its_value_did() -> None:
    layer = nn.Dropout(0.4).train()
    values = torch.ones(1000, requires_grad=True)
    with fast_dropout.held(layer):
        out = layer(values)
    (gradient,) = torch.autograd.grad(out.sum(), values)
    assert 0 < int((out == 0).sum()) < 1000
    assert torch.equal(gradient, out.detach())


class Own(nn.Dropout):
    """Somebody's."""


@pytest.mark.parametrize("p", [0.0, 1.0, 0.001, 0.9999])
def test_a_chance_of_hardly_anything_or_all_is_left_to_torch(p: float) -> None:
    layer, values = nn.Dropout(p).train(), torch.ones(10_000)
    torch.manual_seed(3)
    wanted = layer(values)
    torch.manual_seed(3)
    with fast_dropout.held(layer):
        assert torch.equal(layer(values), wanted)


def test_nothing_is_dropped_in_evaluation_and_all_is_as_before_afterwards() -> None:
    trunk = nn.Sequential(nn.Dropout(0.5), Own(0.5), nn.Dropout(0.5, inplace=True))
    with fast_dropout.held(trunk):
        assert ["forward" in vars(layer) for layer in trunk] == [True, False, False]
        assert torch.equal(trunk.eval()(torch.ones(50)), torch.ones(50))
    assert not any("forward" in vars(layer) for layer in trunk)
    trunk.train()
    torch.manual_seed(4)
    wanted = nn.functional.dropout(torch.ones(50), 0.5)
    torch.manual_seed(4)
    assert torch.equal(trunk[0](torch.ones(50)), wanted)
