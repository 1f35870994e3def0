"""What a computation would allocate is recorded without values, and what is known is computed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from hft_core.memory.allocations import Recorder
from hft_core.memory.heap import live_peak


def recorded(layer: nn.Module, x: Tensor, mask: Tensor) -> Recorder:
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    recorder = Recorder(fake)
    recorder.know([x, mask, *layer.parameters()])
    with recorder:
        chosen = layer(x)[mask] if bool(mask.any()) else layer(x)
        chosen.sum().backward()
        del chosen
    return recorder


def test_blocks_of_a_forward_and_backward_pass_are_counted_and_nothing_is_computed() -> None:
    layer, x = nn.Linear(64, 256, bias=False), torch.randn(32, 64)
    mask = torch.arange(32) < 8  # a quarter of the rows
    events = recorded(layer, x, mask).events
    sizes = {event.block: event.size for event in events if event.size}
    assert {32 * 256 * 4, 8 * 256 * 4, 64 * 256 * 4} <= {*sizes.values()}
    left = {event.block for event in events if event.size} - {event.block for event in events if not event.size}
    assert sum(sizes[block] for block in left) == 64 * 256 * 4  # the gradient
    assert live_peak(events)[0] >= (32 + 64) * 256 * 4
    assert isinstance(layer.weight.grad, FakeTensor)
