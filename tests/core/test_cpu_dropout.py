from __future__ import annotations

import math

import pytest
import torch

from hft_core import cpu_dropout

DRAWN = 1_000_001


@pytest.mark.parametrize("p", [0.002, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_value_is_dropped_with_its_probability_and_the_mean_is_kept(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    found = cpu_dropout.scaled_mask((DRAWN,), p, dtype)
    assert found.dtype == dtype
    dropped = float((found == 0).double().mean())
    assert dropped == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / DRAWN) + 0.5 / cpu_dropout.LEVELS)
    kept = found[found != 0]
    assert len(kept.unique()) == 1
    assert float(kept[0]) == pytest.approx(1 / (1 - p), rel=1e-2 if dtype == torch.bfloat16 else 1e-4)


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 5, 8, 64, 384])
def test_values_are_dropped_independently(distance: int) -> None:
    """The correlation of values so far apart, four of which come from one number."""
    torch.manual_seed(1)
    dropped = (cpu_dropout.scaled_mask((DRAWN,), 0.3, torch.float32) == 0).double()
    together = torch.stack([dropped[:-distance], dropped[distance:]])
    assert abs(float(torch.corrcoef(together)[0, 1])) < 4 / math.sqrt(DRAWN)


def test_masks_are_drawn_from_torchs_generator() -> None:
    torch.manual_seed(2)
    state = torch.get_rng_state()
    first, second = (cpu_dropout.scaled_mask((3, 5, 7), 0.5, torch.float32) for _ in range(2))
    torch.set_rng_state(state)
    assert torch.equal(cpu_dropout.scaled_mask((3, 5, 7), 0.5, torch.float32), first)
    assert not torch.equal(first, second)
