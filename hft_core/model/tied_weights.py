"""Untie weights that one parameter holds for several modules.

A trunk's embedding and its LM head are often one parameter. What changes it for one of them alone (an adapter merged
into the embedding) would change the other as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn


def shared_weights(trunk: nn.Module, heads: nn.Module) -> dict[str, tuple[nn.Parameter, Tensor]]:
    """Return the parameters of `heads` that `trunk` holds as well, by their first name in `heads`, each with a copy of
    its values."""
    own = {id(parameter) for parameter in trunk.parameters()}
    return {name: (p, p.detach().clone()) for name, p in heads.named_parameters() if id(p) in own}


def keep_shared(trunk: nn.Module, heads: nn.Module, before: Mapping[str, tuple[nn.Parameter, Tensor]]) -> list[str]:
    """Keep the values `before` of what `heads` shared with `trunk`: parameters whose values have changed since then
    become the heads' own. Returns the names in `heads` of all that are no longer shared."""
    current = {id(parameter) for parameter in trunk.parameters()}
    own = []
    for name, (parameter, values) in before.items():
        if not torch.equal(parameter.detach(), values):
            _replace(heads, parameter, values)
        elif id(parameter) in current:
            continue
        own.append(name)
    return own


def tied_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the names in `state` whose tensor has an earlier name as well, each with that name."""
    first: dict[int, str] = {}
    return {name: first[p] for name, t in state.items() if first.setdefault(p := t.data_ptr(), name) != name}


def untie(model: nn.Module, names: Collection[str]) -> None:
    """Give the module that holds each of the parameters `names` one of its own, if another has the same one first."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if name in names and first[id(parameter)] != name:
            module, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(module), leaf, _copy(parameter, parameter.detach().clone()))


def _replace(root: nn.Module, parameter: nn.Parameter, values: Tensor) -> None:
    """Put one new parameter wherever `root` holds `parameter`."""
    new = _copy(parameter, values)
    for module in root.modules():
        for leaf, held in module.named_parameters(recurse=False):
            if held is parameter:
                setattr(module, leaf, new)


def _copy(parameter: nn.Parameter, values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=parameter.requires_grad)
