"""Overrides of `forward` nest, keep hooks and names, and leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hft_core.forward_override import is_overridden, override_forward


def test_the_innermost_override_is_called_and_each_one_ends_with_its_context() -> None:
    layer, x = nn.Identity(), torch.ones(2)
    with override_forward({layer: lambda x: x * 2}):
        with override_forward({layer: lambda x: x * 3}):
            assert torch.equal(layer(x), x * 3)
        assert torch.equal(layer(x), x * 2)
        assert is_overridden(layer)
    assert torch.equal(layer(x), x)
    assert not is_overridden(layer)


def test_an_override_may_call_the_one_around_it() -> None:
    layer = nn.Identity()
    with override_forward({layer: lambda x: x + 1}):
        outer = layer.forward
        with override_forward({layer: lambda x: outer(x) * 10}):
            assert float(layer(torch.ones(()))) == 20


def test_the_forward_is_back_after_an_error() -> None:
    layer = nn.Identity()
    with pytest.raises(ZeroDivisionError), override_forward({layer: lambda x: x / 0}):
        layer(1)
    assert not is_overridden(layer)


def test_hooks_run_and_names_stay() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    names, outputs = list(model.state_dict()), list[Tensor]()
    model[0].register_forward_hook(lambda layer, args, output: outputs.append(output))
    replacement = nn.Tanh()  # a module must not become a submodule
    with override_forward({model[0]: replacement}):
        model(torch.ones(1, 2))
        assert list(model.state_dict()) == names
        assert replacement not in list(model.modules())
    assert torch.equal(outputs[0], torch.ones(1, 2).tanh())
