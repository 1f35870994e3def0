"""Find the device, number format and process group that this process trains with."""

from __future__ import annotations

import atexit
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.state import is_initialized

from hft_core.device import fsdp_settings, precision
from hft_core.device.clock import Clock
from hft_core.device.process_group import ProcessGroup, SingleProcess, TorchProcessGroup
from hft_core.device.rank_environment import WORLD_SIZE, check_rendezvous, requested_world_size
from hft_core.errors import UsageError
from hft_core.runtime import signals


@dataclass(frozen=True)
class Machine:
    """A device, the number format of its matrix products, and the processes that train together."""

    device: torch.device
    precision: precision.Precision
    group: ProcessGroup
    sharded: bool = False
    """While a stage trains, FSDP shards the trunk's weights (see `hft_core.model.fsdp`): all processes must make
    equally many passes through the trunk, and read all weights equally often."""

    @cached_property
    def clock(self) -> Clock:
        """The time of the current stage by part of the work, in this process."""
        return Clock(self.device)

    @property
    def name(self) -> str:
        """The processes and the type of their device, for messages."""
        processes = f"{self.group.world_size} process{'es' * (self.group.world_size > 1)} on {self.device.type}"
        return f"{processes}, which divide the trunk," if self.sharded else processes

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which the model runs. Accelerate's own has one number format for the whole process, so
        a second run in the same process could not have another."""
        return self.precision.autocast(self.device)

    def agree(self, flag: bool) -> bool:
        """Return rank 0's flag where weights are sharded, and else this process's: what reads sharded weights is a
        collective, which all processes must call."""
        return bool(self.group.broadcast(torch.tensor(int(flag), device=self.device))) if self.sharded else flag

    def check_interruption(self) -> None:
        """Raise `Interrupted` in all processes when one of them received a signal to stop."""
        number = self.group.all_reduce_max(signals.requested())
        if number:
            raise signals.Interrupted(number)


def find_machine(
    wanted_precision: str, accelerator: Accelerator | None = None, *, chosen: precision.Precision | None = None
) -> Machine:
    """Find this process's device and process group, and choose a number format.

    `accelerator`: the host program's, asked for nothing but the device and the processes: its number format, loss
    scaling and gradient accumulation are not the run's. `chosen`: the number format, if it was measured before.

    Raises `UsageError` when the number of processes is not the requested one, or their launcher is not supported.
    """
    requested = requested_world_size()
    if accelerator is None and not is_initialized():
        check_rendezvous(requested)
        atexit.register(_destroy_gloo)
    sharded = fsdp_settings.requested(accelerator.state if accelerator is not None else None)
    # Not an Accelerator of its own: the first one settles the number format of all later ones, the host's too.
    state = accelerator or PartialState(cpu=requested > 1 and not torch.cuda.is_available())
    if state.num_processes != requested and WORLD_SIZE in os.environ:
        raise UsageError(
            f"{requested} processes were asked for, but Accelerate runs {state.num_processes}: start hft with "
            "'hft run --processes N' or torchrun"
        )
    group: ProcessGroup = SingleProcess()
    if state.num_processes > 1:
        group = TorchProcessGroup(state.process_index, state.num_processes, state.device)
    chosen = chosen or precision.choose(wanted_precision, state.device)
    machine = Machine(state.device, chosen, group, sharded and group.world_size > 1)
    # Two processes that measure may not agree, and all must compute in one number format.
    return replace(machine, precision=group.all_gather(machine.precision)[0])


def _destroy_gloo() -> None:
    """End gloo's threads before Python does: a process that ends while one of them runs aborts (about 1 in 100
    processes, torch 2.13)."""
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == dist.Backend.GLOO:
        dist.destroy_process_group()
