"""Collect, save and load the weights that a stage trains."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from hft_core.backbone import QuantizedModule
from hft_core.device import dtensor
from hft_core.errors import RunError
from hft_core.runtime.files import follow_umask


def trained_state(model: nn.Module, combiner: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the model's parameters that the optimizer has, and the combiner's parameters and buffers, by name.

    Tied parameters are in it once; those that are frozen for the heads' warm-up only are in it too.
    """
    trainable = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trained = {f"model.{name}": p for name, p in model.named_parameters() if id(p) in trainable}
    return {**trained, **{f"combiner.{name}": tensor for name, tensor in combiner.state_dict(keep_vars=True).items()}}


def save(path: Path, state: dict[str, Tensor]) -> None:
    """Write `state` to `path` atomically: to a temporary file that is then renamed.

    Raises `RunError` when that fails.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().to("cpu").contiguous() for name, tensor in state.items()}, temporary)
        follow_umask(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from error


def put(found: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy the tensors `found` into those of `state`, which must have the same names. A buffer may have another size by
    now (a combiner's, which it gets at its first step)."""
    with torch.no_grad():
        for name, tensor in state.items():
            if tensor.shape != found[name].shape and not isinstance(tensor, nn.Parameter):
                tensor.resize_(found[name].shape)
            tensor.copy_(dtensor.shard_like(tensor, found[name]))


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer of the model by name, tied ones once; without weights that are quantized, which
    never change."""
    fixed = {id(buffer) for m in model.modules() if isinstance(m, QuantizedModule) for buffer in m.buffers(False)}
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if id(tensor) not in fixed:
            found.setdefault(id(tensor), (name, tensor))
    return dict(found.values())


def optimizer_state(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's moments and step counts, by the index of their parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{number}.{name}": value
        for number, parameter in enumerate(parameters)
        for name, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_state(optimizer: Optimizer, state: dict[str, Tensor]) -> None:
    """Load what `optimizer_state` returned into an optimizer of the same parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.state.clear()
    for name, value in state.items():
        number, _, key = name.partition(".")
        parameter = parameters[int(number)]
        moment = value.shape == parameter.shape  # not the count of steps
        optimizer.state[parameter][key] = dtensor.shard_like(parameter, value) if moment else value.to(parameter.device)
