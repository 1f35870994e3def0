"""Start several processes of one command on this machine, as torchrun does; imports no torch.

In addition, signals are forwarded to all processes, which agree on the step to stop at, and the command has their exit
code.
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
from hft_core.runtime import signals

PR_SET_PDEATHSIG = 1
"""`prctl` option of Linux: the signal that a process gets when its parent dies."""
GRACE_SECONDS = 20.0
"""Time for the other processes to end when one has failed; they may be waiting for it in a collective."""


def is_main() -> bool:
    """Return whether this process reports and writes: rank 0, also of a single process."""
    return os.environ.get("RANK", "0") == "0"


def launched() -> bool:
    """Return whether a launcher started this process."""
    return "WORLD_SIZE" in os.environ


def request_fsdp(processes: int) -> None:
    """Shard the trunk over the processes of this command, as `accelerate launch --use_fsdp` does. Raises `UsageError`
    for a single process."""
    if processes == 1 and not launched():
        raise UsageError("--fsdp divides the trunk among several processes: give --processes N as well")
    fsdp_settings.request()


def run(processes: int, arguments: Sequence[str]) -> int:
    """Run `hft` with `arguments` in `processes` processes; return the exit code of the first that failed, or 0."""
    threads = max(1, _cores() // processes)
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
    }
    started = [_start(rank, common, arguments) for rank in range(processes)]

    def forward(number: int, frame: FrameType | None) -> None:
        for process in started:
            if process.poll() is None:
                process.send_signal(number)

    heard = [number for number in signals.STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in heard}
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
    """On Linux, let this process get SIGTERM when the launcher is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(started: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until all have ended, or `GRACE_SECONDS` after one failed; return the exit code of the first that failed."""
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
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _as_shell(code: int) -> int:
    """Convert the return code of a process that a signal ended to that of a shell."""
    return 128 - code if code < 0 else code


def free_port() -> int:
    """Find a free TCP port on this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
