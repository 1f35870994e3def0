"""The weights that train, in a file that appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer


def trained_state(model: nn.Module, combiner: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """What the optimizer moves in the model (at the time or later: a warm-up of the heads holds the trunk still), and
    the combiner's parameters and buffers, by name; tied ones once."""
    moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trained = {f"model.{name}": p for name, p in model.named_parameters() if id(p) in moved}
    return {**trained, **{f"combiner.{name}": tensor for name, tensor in combiner.state_dict(keep_vars=True).items()}}


def save(path: Path, state: dict[str, Tensor]) -> None:
    """Write `state` to `path`: beside it first, then renamed, so that a file of that name is always complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({name: tensor.detach().to("cpu").contiguous() for name, tensor in state.items()}, beside)
    with open(beside, "rb") as file:
        os.fsync(file.fileno())
    os.replace(beside, path)


def load(path: Path, state: dict[str, Tensor]) -> None:
    """Copy the tensors in `path` into those of `state`, which must have the same names."""
    found = load_file(path)
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(found[name])
