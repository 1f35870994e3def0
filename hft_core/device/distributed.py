"""Where a run computes: Accelerate's device and processes, and the number format measured there."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.state import is_initialized
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from hft_core.device import fsdp_settings, precision
from hft_core.device.clock import Clock
from hft_core.device.launcher import WORLD_SIZE, check_meeting, world_asked_for
from hft_core.errors import RunError, UsageError
from hft_core.runtime import signals

BUCKET = 1 << 24
"""Values of gradients that are added up in one call."""


@dataclass(frozen=True)
class Machine:
    """One process's place in a run, and what it does together with the others. With one process, nothing is sent.

    Every process computes its own rows of each step; what is added up is sums, so that the result is that of one
    process with all rows. Whatever a method sends, all processes must call it in the same order.
    """

    accelerator: Accelerator | PartialState
    """Which device, which process of how many. A host's Accelerator is asked for nothing else: its number format, its
    loss scaling and its gradient accumulation are not the run's."""
    precision: precision.Precision
    sharded: bool = False
    """While a stage trains, the trunk's weights are divided among the processes (see `hft_core.model.fsdp`), and
    whoever     passes through it or looks at them all does so in all processes, equally often."""

    @property
    def device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    @cached_property
    def clock(self) -> Clock:
        """Where the time of the stage that runs goes, in this process."""
        return Clock(self.device)

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def name(self) -> str:
        """The processes and their kind of device, for people."""
        processes = f"{self.world} process{'es' * (self.world > 1)} on {self.device.type}"
        return f"{processes}, which divide the trunk," if self.sharded else processes

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which the model runs. Not Accelerate's own: its number format is the whole process's, and a
        second run in the same process could not have another."""
        return self.precision.autocast(self.device)

    # --- together with the other processes

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def totals(self, numbers: dict[str, int]) -> dict[str, int]:
        """The sums of all processes' numbers, by the same names in the same order."""
        if self.world == 1:
            return numbers
        found = self.total(torch.tensor(list(numbers.values()), device=self.device)).tolist()
        return dict(zip(numbers, found, strict=True))

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers."""
        if self.world == 1:
            return number
        found = torch.tensor(number, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def same(self, tensor: Tensor) -> Tensor:
        """The first process's tensor, in place: what follows from equal sums may still differ in its last bits."""
        if self.world > 1:
            dist.broadcast(tensor, 0)
        return tensor

    def decided(self, yes: bool) -> bool:
        """Whether to look at all weights: the first process's answer where all have to, and else this one's."""
        return bool(self.same(torch.tensor(int(yes), device=self.device))) if self.sharded else yes

    def gathered(self, value: Any) -> list[Any]:
        """All processes' values, in the order of the processes."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def add_up_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each parameter's gradient by the sum of all processes'; one that no process has stays away. That of a
        divided parameter is their sum already."""
        parameters = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        if self.world == 1 or not parameters:
            return
        has = torch.tensor([parameter.grad is not None for parameter in parameters], device=self.device).int()
        dist.all_reduce(has, dist.ReduceOp.MAX)
        there = [p for p, any_has in zip(parameters, has.tolist(), strict=True) if any_has]
        for parameter in there:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets(there):
            grads = [parameter.grad for parameter in bucket if parameter.grad is not None]
            flat = torch.cat([grad.reshape(-1) for grad in grads])
            dist.all_reduce(flat)
            for grad, part in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
                grad.copy_(part.view_as(grad))

    def check_interruption(self) -> None:
        """Raise `Interrupted` in all processes when one of them was told to end."""
        number = self.largest(signals.requested())
        if number:
            raise signals.Interrupted(number)

    def check_equal(self, tensors: Sequence[Tensor], what: str) -> None:
        """Raise `RunError` when the processes' tensors are no longer the same, bit for bit. Divided ones are passed
        over: each process has another share."""
        if self.world == 1:
            return
        tensors = [tensor for tensor in tensors if not isinstance(tensor, DTensor)]
        digest = torch.stack([_bits(tensor.detach()) for tensor in tensors]).tolist() if tensors else []
        if any(other != digest for other in self.gathered(digest)):
            raise RunError(f"the {self.world} processes have drifted apart: {what} are not the same in all of them")


def find(
    wanted_precision: str, accelerator: Accelerator | None = None, *, chosen: precision.Precision | None = None
) -> Machine:
    """The machine of this process; `accelerator` is the host's own, if it has one, and `chosen` the number format where
    it was measured before.

    Raises `UsageError` when the number of processes is not what was asked for, or their kind is not supported.
    """
    asked = world_asked_for()
    if accelerator is None and not is_initialized():
        check_meeting(asked)
        atexit.register(_part)
    sharded = fsdp_settings.asked(accelerator.state if accelerator is not None else None)
    # Not an Accelerator of its own: the first one settles the number format of all later ones, the host's too.
    place = accelerator or PartialState(cpu=asked > 1 and not torch.cuda.is_available())
    if place.num_processes != asked and WORLD_SIZE in os.environ:
        raise UsageError(
            f"{asked} processes were asked for, but Accelerate runs {place.num_processes}: start hft with "
            "'hft run --processes N' or torchrun"
        )
    chosen = chosen or precision.choose(wanted_precision, place.device)
    found = Machine(place, chosen, sharded and place.num_processes > 1)
    # Two processes that measure may not agree, and all must compute in one number format.
    return replace(found, precision=found.gathered(found.precision)[0])


def _part() -> None:
    """End gloo's threads while Python still runs: where the end of the process meets one of them, it aborts (about 1 in
    100 processes, torch 2.13)."""
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == dist.Backend.GLOO:
        dist.destroy_process_group()


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Consecutive parameters of the same number format, up to `BUCKET` values together."""
    buckets: list[list[nn.Parameter]] = []
    size = 0
    for parameter in parameters:
        alike = bool(buckets) and buckets[-1][0].dtype == parameter.dtype
        if not alike or size + parameter.numel() > BUCKET:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += parameter.numel()
    return buckets


def _bits(tensor: Tensor) -> Tensor:
    """A number that depends on every bit of a tensor and on their order."""
    words = tensor.reshape(-1).contiguous().view(torch.uint8).to(torch.int64)
    places = torch.arange(1, len(words) + 1, device=words.device)
    return (words * (places * 2654435761 % 4294967291)).sum()
