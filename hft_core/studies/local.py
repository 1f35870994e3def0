"""Run commands on this machine, each in a slot with its share of the cores; what was started outlives this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Slot:
    """A part of the machine for one command at a time."""

    index: int
    threads: int
    """Threads that a command may compute with."""
    gpu: int | None = None
    """The only GPU that a command sees; None: as the environment says."""


class Handle(Protocol):
    """A command that was started."""

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""

    def stop(self) -> None:
        """Ask it to save and stop."""


class Launcher(Protocol):
    """Where the runs of a study are started: `launch(argv, slot, log)` → handle."""

    def slots(self, count: int | None) -> list[Slot]:
        """Return the slots: `count`, or as many as fit."""

    def launch(self, argv: Sequence[str], slot: Slot, log: Path) -> Handle:
        """Start a command that writes its output to `log`; it outlives this process."""


class LocalHandle:
    """A process of this machine."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)


class Local:
    """Start processes on this machine."""

    def slots(self, count: int | None) -> list[Slot]:
        """One slot for each GPU, or one in all without any, unless `count` says how many; cores are divided."""
        gpus = _gpus()
        number = count or max(1, gpus)
        threads = max(1, cores() // number)
        return [Slot(i, threads, i % gpus if gpus else None) for i in range(number)]

    def launch(self, argv: Sequence[str], slot: Slot, log: Path) -> LocalHandle:
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(slot.threads)), "PYTHONUNBUFFERED": "1"}
        if slot.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = _visible(slot.gpu)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(argv),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # neither a Ctrl-C of the terminal nor its end reaches it
            )
        return LocalHandle(process)


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _visible(gpu: int) -> str:
    """Return the name of the `gpu`-th device of those that this process sees."""
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return names[gpu] if gpu < len(names) else str(gpu)
