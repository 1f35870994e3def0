"""The contract of the launcher seam: where the runs of a comparison or a search are computed."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Slot:
    """A part of the machine, or a place in a queue, for one command at a time."""

    index: int
    threads: int
    """Threads that a command may compute with."""
    gpu: int | None = None
    """The only GPU that a command sees; None: as the environment says."""

    def environment(self) -> dict[str, str]:
        """Return the environment of this process, with the slot's threads and with output that is written at once."""
        return {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(self.threads)), "PYTHONUNBUFFERED": "1"}


class Handle(ABC):
    """A command that was started."""

    @abstractmethod
    def poll(self) -> int | None:
        """Return the exit code, or 1 for a failure without one; None while the command waits or runs."""

    @abstractmethod
    def stop(self) -> None:
        """Ask the command to save and stop, by a signal; return at once. Nothing happens where it has ended."""


class Launcher(ABC):
    """Starts commands. What was started outlives this process: a study is resumed beside its runs."""

    @abstractmethod
    def slots(self, count: int | None) -> list[Slot]:
        """Return where commands may run at the same time: `count` slots, or as many as fit."""

    @abstractmethod
    def launch(self, argv: Sequence[str], slot: Slot, log: Path) -> Handle:
        """Start a command that appends its output, errors included, to `log`, whose folder may have to be made.

        Raises `HftError` where it cannot be started.
        """
