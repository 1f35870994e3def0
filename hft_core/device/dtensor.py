"""Tensors that may be divided among the processes (DTensors of FSDP2), beside others that are whole in each of them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def is_divided(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


def of_this_process(tensor: Tensor) -> Tensor:
    """The share that this process has, in place."""
    share: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return share


def gathered(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """The tensors, each divided one put together in memory; all processes must call it. Where not `keep`, those are
    left out."""
    found = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            whole: Tensor = tensor.full_tensor()
            if keep:
                found[name] = whole.detach().cpu()
        else:
            found[name] = tensor
    return found


def like(tensor: Tensor, given: Tensor) -> Tensor:
    """The whole tensor `given` as `tensor` is: on its device, and divided if that is."""
    given = given.to(tensor.device)
    if isinstance(tensor, DTensor):
        return distribute_tensor(given, tensor.device_mesh, tensor.placements, src_data_rank=None)
    return given
