"""The launcher `local`: processes of this machine, each with its share of the cores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hft_core import options
from hft_core.launcher import Handle, Launcher, Slot


class Options(options.Options):
    """It has none: `--slots` says how many run at a time."""


def build(options: Options) -> Launcher:
    return Local()


class Process(Handle):
    """A process of this machine."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)


class Local(Launcher):
    """Starts processes of this machine."""

    def slots(self, count: int | None) -> list[Slot]:
        """One slot for each GPU, or one in all without any, unless `count` says how many; cores are divided."""
        gpus = _gpus()
        number = count or max(1, gpus)
        threads = max(1, _cores() // number)
        return [Slot(i, threads, i % gpus if gpus else None) for i in range(number)]

    def launch(self, argv: Sequence[str], slot: Slot, log: Path) -> Process:
        environment = slot.environment()
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
        return Process(process)


def _cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _visible(gpu: int) -> str:
    """Return the name of the `gpu`-th device of those that this process sees."""
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return names[gpu] if gpu < len(names) else str(gpu)
