"""Several processes of one command on this machine, each with its share of the cores; light.

What torchrun does for one machine, with the signals and exit codes that `hft` promises: a signal goes to all processes,
they agree on the step to stop at, and the command ends as they did.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from hft_core.device import fsdp_settings
from hft_core.errors import UsageError

PR_SET_PDEATHSIG = 1
"""Linux's name for the signal that a process gets when its parent dies."""
GRACE_SECONDS = 20.0
"""Time that the others are given when one process has failed: they may wait for it in vain."""


def leads() -> bool:
    """Whether this process is the one of its run that reports and writes (there may be no others)."""
    return os.environ.get("RANK", "0") == "0"


def launched() -> bool:
    """Whether this process was started as one of several."""
    return "WORLD_SIZE" in os.environ


def divide(processes: int) -> None:
    """Let the processes of this command divide the trunk, as those of `accelerate launch --use_fsdp` do. Raises
    `UsageError` when there is one alone."""
    if processes == 1 and not launched():
        raise UsageError("--fsdp divides the trunk among several processes: give --processes N as well")
    fsdp_settings.request()


def run(processes: int, arguments: Sequence[str]) -> int:
    """Run `hft` with `arguments` in so many processes, and return the exit code: 0 when all ended well, or else that of
    the first that did not."""
    threads = max(1, _cores() // processes)
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
    }
    started = [_start(rank, common, arguments) for rank in range(processes)]

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in started:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _wait(started)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for process in started:
            process.kill()
            process.wait()


def _start(rank: int, common: dict[str, str], arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    out = None if rank == 0 else subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, "-m", "hft_core", *arguments],
        env=environment,
        stdout=out,
        start_new_session=True,  # a Ctrl-C of the terminal comes once, from here
        preexec_fn=_end_with_the_launcher,  # noqa: PLW1509 (the launcher has one thread)
    )


def _end_with_the_launcher() -> None:
    """Have the system send SIGTERM to this process when the launcher is killed; where it is not Linux, nobody does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(started: Sequence[subprocess.Popen[bytes]]) -> int:
    """The exit code of the first process that failed, when all have ended or have had time to."""
    failed, since = 0, 0.0
    while True:
        codes = [process.poll() for process in started]
        if not failed:
            failed = next((_as_shell(code) for code in codes if code), 0)
            since = time.monotonic()
        if all(code is not None for code in codes) or (failed and time.monotonic() - since > GRACE_SECONDS):
            return failed
        time.sleep(0.05)


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _as_shell(code: int) -> int:
    """The code of a process that a signal ended, as shells give it."""
    return 128 - code if code < 0 else code


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
