"""`my-plugin`: processes of this machine with a lower priority.

Put your own launcher here. What it starts has to outlive the process of hft that started it.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import Field

from hft_core import options
from hft_core.launcher import Handle, Launcher, Slot


class Options(options.Options):
    """What can be chosen."""

    nice: int = Field(default=10, ge=0, le=19, description="how much other processes come before a run")


def build(options: Options) -> Launcher:
    return MyPlugin(options)


class MyPlugin(Launcher):
    """Starts `nice COMMAND`, by default one at a time."""

    def __init__(self, options: Options) -> None:
        self._nice = options.nice

    def slots(self, count: int | None) -> list[Slot]:
        return [Slot(index, threads=1) for index in range(count or 1)]

    def launch(self, argv: Sequence[str], slot: Slot, log: Path) -> Handle:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["nice", "-n", str(self._nice), *argv],
                env=slot.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return MyPluginHandle(process)


class MyPluginHandle(Handle):
    """One command."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
