"""Where a run computes: Accelerate's device and processes, and the number format measured there."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from hft_core import precision
from hft_core.errors import UsageError


@dataclass(frozen=True)
class Machine:
    """One process's place in a run."""

    accelerator: Accelerator
    precision: precision.Precision

    @property
    def device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which the model runs. Not Accelerate's own: its number format is the whole process's, and a
        second run in the same process could not have another."""
        return self.precision.autocast(self.device)


def find(wanted_precision: str, accelerator: Accelerator | None = None) -> Machine:
    """The machine of this process; `accelerator` is the host's own, if it has one.

    Raises `UsageError` when the process is one of several: training on many processes is not there yet.
    """
    accelerator = accelerator or Accelerator()
    if accelerator.num_processes > 1:
        raise UsageError(
            f"this was started as {accelerator.num_processes} processes, but hft trains in one process so far: "
            "start it without a launcher"
        )
    return Machine(accelerator, precision.choose(wanted_precision, accelerator.device))
