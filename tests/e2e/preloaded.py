"""Serve runs from a process that has imported everything: each run is a fork of it, and starts fast.

`killing.py` and `fault_injection/server.py` read one job a line (JSON) and answer each with a line. `preloaded.py`
itself runs command lines, as `hft` would, in as many processes as they ask for: a job is `{"arguments", "log",
"environment"}`, the answer `{"code"}`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import torchjd
import transformers.models.bert.modeling_bert

from hft_core.cli import app, launch, run
from hft_core.runs import runner
from hft_plugins.backbones import encoder
from hft_plugins.heads import classification, mlm, regression

IMPORTED = (
    run,
    runner,
    peft,
    torchjd,
    transformers.models.bert.modeling_bert,
    encoder,
    classification,
    mlm,
    regression,
)
"""What a run imports only when it begins."""


def redirect_output(file: str) -> None:
    """Append what this process prints to a file."""
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(opened, 1)
    os.dup2(opened, 2)


def run_command(arguments: Sequence[str]) -> int:
    """Run a command line with the signal handlers that a fresh process has, and return its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
    return app.main(arguments)


class Forked:
    """A process that is a fork of this one: what the launcher asks of a `subprocess.Popen`."""

    def __init__(self, work: Callable[[], int]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                code = work()
            finally:
                sys.stdout.flush()
                os._exit(code)

    def poll(self) -> int | None:
        return self._ended(os.WNOHANG)

    def wait(self) -> int | None:
        return self._ended(0)

    def _ended(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def fork_ranks(work: Callable[[int, Sequence[str]], int]) -> None:
    """Let the launcher fork its processes; `work(rank, arguments)` is what each of them does."""

    def start(rank: int, common: dict[str, str], arguments: Sequence[str]) -> Forked:
        def in_its_environment() -> int:
            os.environ.update({**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            return work(rank, arguments)

        return Forked(in_its_environment)

    launch._start = start  # type: ignore[assignment]


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer the jobs on standard input until it ends."""
    torch.set_num_threads(1)
    threads = [(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").iterdir()]
    assert threads[1:] in ([], ["jemalloc_bg_thd"]), threads  # a fork has one thread; arrow's allocator knows of forks
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


def _rank(rank: int, arguments: Sequence[str]) -> int:
    if rank:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return run_command(arguments)


def _command(job: dict[str, Any]) -> int:
    os.setsid()
    redirect_output(job["log"])
    os.environ.update(job["environment"])
    fork_ranks(_rank)
    return run_command(job["arguments"])


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    code = Forked(lambda: _command(job)).wait() or 0
    return {"code": 128 - code if code < 0 else code}


if __name__ == "__main__":
    serve(_answer)
