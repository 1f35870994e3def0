"""The weights that train, in a file that appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def trained_state(model: nn.Module, combiner: nn.Module) -> dict[str, Tensor]:
    """The parameters that train, and the combiner's parameters and buffers, by name; tied ones once."""
    trained = {f"model.{name}": p for name, p in model.named_parameters() if p.requires_grad}
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
