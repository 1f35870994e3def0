"""Treat FSDP2's sharded tensors (`DTensor`) and ordinary tensors alike."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


def local_shard(tensor: Tensor) -> Tensor:
    """Return this process's shard, a view; an ordinary tensor is returned as it is."""
    shard: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return shard


def full_tensors(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Gather the sharded tensors on the CPU; a collective. Without `keep`, this process drops the gathered ones."""
    full = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            gathered: Tensor = tensor.full_tensor()
            if keep:
                full[name] = gathered.detach().cpu()
        else:
            full[name] = tensor
    return full


def shard_like(tensor: Tensor, full: Tensor) -> Tensor:
    """Move `full` to the device of `tensor`, and shard it in the same way if `tensor` is sharded."""
    full = full.to(tensor.device)
    if isinstance(tensor, DTensor):
        return distribute_tensor(full, tensor.device_mesh, tensor.placements, src_data_rank=None)
    return full
