"""Sum gradients over processes instead of averaging them, and run the other collectives of a training step.

A loss is divided by the number of targets in *all* processes (`hft_core.gradients.losses`), so the gradients of the
processes are summands of the gradient that one process would compute from all rows. An average, as in
`DistributedDataParallel`, would weight a process's targets by how few of them it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from hft_core.errors import RunError

BUCKET = 1 << 24
"""Gradient values that are reduced in one call."""


class ProcessGroup(ABC):
    """The processes of a run. All of them must call each method equally often and in the same order."""

    rank: int
    world_size: int

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and reports to observers."""
        return self.rank == 0

    @abstractmethod
    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by the sum over all processes, in place, and return it."""

    @abstractmethod
    def all_reduce_counts(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Sum counts over all processes, by key; all have the same keys in the same order."""

    @abstractmethod
    def all_reduce_max(self, number: int) -> int:
        """Return the largest of all processes' numbers."""

    @abstractmethod
    def all_gather(self, value: Any) -> list[Any]:
        """Return all processes' values (any that pickle can serialize), by rank."""

    @abstractmethod
    def broadcast(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by that of rank 0, in place, and return it. Results that are computed from equal sums may
        differ in their last bits."""

    @abstractmethod
    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by the sum over all processes. Skips sharded parameters, whose gradients FSDP has
        reduced, and parameters that have a gradient in no process."""

    @abstractmethod
    def check_equal(self, tensors: Sequence[Tensor], what: str) -> None:
        """Raise `RunError` where the tensors are not the same in all processes, bit for bit. Skips sharded tensors."""

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true in any process."""
        return bool(self.all_reduce_max(int(flag)))


class SingleProcess(ProcessGroup):
    """The group of a run with one process: sends nothing, and never waits for the device."""

    rank = 0
    world_size = 1

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return tensor

    def all_reduce_counts(self, counts: Mapping[str, int]) -> dict[str, int]:
        return dict(counts)

    def all_reduce_max(self, number: int) -> int:
        return number

    def all_gather(self, value: Any) -> list[Any]:
        return [value]

    def broadcast(self, tensor: Tensor) -> Tensor:
        return tensor

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        return

    def check_equal(self, tensors: Sequence[Tensor], what: str) -> None:
        return


@dataclass(frozen=True)
class TorchProcessGroup(ProcessGroup):
    """The default process group of `torch.distributed`."""

    rank: int
    world_size: int
    device: torch.device
    """Where the tensors are that this process sends."""

    def all_reduce(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def all_reduce_counts(self, counts: Mapping[str, int]) -> dict[str, int]:
        sums = self.all_reduce(torch.tensor(list(counts.values()), device=self.device)).tolist()
        return dict(zip(counts, sums, strict=True))

    def all_reduce_max(self, number: int) -> int:
        return int(self._max(torch.tensor(number, device=self.device)))

    def all_gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, tensor: Tensor) -> Tensor:
        dist.broadcast(tensor, 0)
        return tensor

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        parameters = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        if not parameters:
            return
        has = torch.tensor([parameter.grad is not None for parameter in parameters], device=self.device).int()
        updated = [p for p, any_has in zip(parameters, self._max(has).tolist(), strict=True) if any_has]
        for parameter in updated:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets(updated):
            grads = [parameter.grad for parameter in bucket if parameter.grad is not None]
            flat = self.all_reduce(torch.cat([grad.reshape(-1) for grad in grads]))
            for grad, values in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
                grad.copy_(values.view_as(grad))

    def check_equal(self, tensors: Sequence[Tensor], what: str) -> None:
        tensors = [tensor for tensor in tensors if not isinstance(tensor, DTensor)]
        digest = torch.stack([_bits(tensor.detach()) for tensor in tensors]).tolist() if tensors else []
        if any(other != digest for other in self.all_gather(digest)):
            raise RunError(
                f"the {self.world_size} processes have drifted apart: {what} are not the same in all of them"
            )

    def _max(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Group consecutive parameters of one dtype, up to `BUCKET` values together."""
    buckets: list[list[nn.Parameter]] = []
    size = 0
    for parameter in parameters:
        same_dtype = bool(buckets) and buckets[-1][0].dtype == parameter.dtype
        if not same_dtype or size + parameter.numel() > BUCKET:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += parameter.numel()
    return buckets


def _bits(tensor: Tensor) -> Tensor:
    """Hash a tensor: an integer that depends on every bit and on their order."""
    words = tensor.reshape(-1).contiguous().view(torch.uint8).to(torch.int64)
    places = torch.arange(1, len(words) + 1, device=words.device)
    return (words * (places * 2654435761 % 4294967291)).sum()
