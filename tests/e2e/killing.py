"""Starts runs that are killed at a chosen instant: `python killing.py` reads one job a line and answers each with one.

The process imports everything once and computes nothing; each start of a run is a fork of it, which then is as fresh
as a process of its own. A job is `{"arguments", "world", "log", "kill", "after"}`: the command line, how many
processes, the file for what they print; `kill` is None or `{"instant", "nth", "who"}`, `after` None or seconds of life.
The answer is `{"code", "seconds"}`, with the code as shells give it (137: killed). With `"signals"`, numbers, the
process gets those instead of SIGKILL.

An instant is a call that the run makes, told by what it is given, and whether the kill comes before or after it. It
counts in the process that writes (`rank` 0) where `who` is "lead" or "whole", and in the other where it is "other".
"whole" kills every process of the run at once, its launcher too; otherwise one process is killed alone.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
import transformers
from preloaded import Forked, fork_ranks, redirect_output, run_command, serve

from hft_core.cli import launch
from hft_core.plugins.observers import Observers
from hft_core.training import checkpointing, snapshot

ALIVE = 900
"""The file descriptor by which the end of a run's processes is noticed."""


@dataclass(frozen=True)
class Instant:
    """A moment in a run."""

    kind: str
    """What the moments are counted under: before, during or after a save, …"""
    owner: Any
    name: str
    """The function whose call it is: an attribute of `owner`."""
    what: Callable[..., Any] | str = ""
    """Which of its calls: a pattern for the path that it is given last, or a test of its arguments."""
    after: bool = False
    torn: bool = False
    """Half of the file is on the disk."""

    def is_of(self, arguments: Sequence[Any]) -> bool:
        if isinstance(self.what, str):
            return not self.what or re.search(self.what, _path(arguments[-1])) is not None
        return bool(self.what(*arguments))


def _path(value: Any) -> str:
    """The path that a call is given; that of an open file where it is given a number."""
    return os.readlink(f"/proc/self/fd/{value}") if isinstance(value, int) else str(value)


def _event(name: str) -> Callable[..., bool]:
    return lambda observers, event, *rest: event == name


def _evaluating(*arguments: Any) -> bool:
    return torch.is_inference_mode_enabled()


BESIDE = r"checkpoints/\.\d{4}-\d{8}\.\w{8}"
PUBLISHED = r"checkpoints/\d{4}-\d{8}$"
INSTANTS = {
    "recipe.yaml is written beside its place": Instant("start", os, "replace", r"recipe\.yaml$"),
    "the run is announced": Instant("start", Observers, "emit", _event("run_started"), after=True),
    "texts are tokenized": Instant("start", transformers.PreTrainedTokenizerBase, "__call__"),
    "a checkpoint is due": Instant("before a save", checkpointing.CheckpointScheduler, "save"),
    "half of its first file is there": Instant("during a save", os, "fsync", BESIDE + r"/weights", torn=True),
    "some of its files are there": Instant("during a save", os, "fsync", BESIDE + r"/optimizer", after=True),
    "half of its manifest is there": Instant("during a save", os, "fsync", BESIDE + r"/manifest", torn=True),
    "it is whole and not yet renamed": Instant("during a save", os, "rename", PUBLISHED),
    "it is renamed and not yet the LATEST": Instant("during a save", os, "replace", r"LATEST$"),
    "it is the LATEST and the old one is there": Instant("during a save", os, "replace", r"LATEST$", after=True),
    "the old one has lost its name": Instant("during a save", shutil, "rmtree", BESIDE),
    "a checkpoint is saved": Instant("after a save", checkpointing.CheckpointScheduler, "save", after=True),
    "between two passes of one step": Instant("in a step", torch.autograd, "backward", after=True),
    "between the gradients of two tasks": Instant("in a step", torch.autograd, "grad", after=True),
    "the optimizer has moved": Instant("in a step", torch.optim.AdamW, "step", after=True),
    "in an evaluation": Instant("evaluation", torch.nn.Embedding, "forward", _evaluating),
    "an evaluation begins": Instant("evaluation", Observers, "emit", _event("evaluation_started")),
    "an evaluation is done": Instant("evaluation", Observers, "emit", _event("evaluation_finished"), after=True),
    "the best weights are beside their place": Instant("best weights", os, "replace", r"/\d-stage-\d\.safetensors$"),
    "the best weights are new": Instant("best weights", os, "replace", r"/\d-stage-\d\.safetensors$", after=True),
    "the first stage is over": Instant("between stages", Observers, "emit", _event("stage_finished"), after=True),
    "what it made is beside its place": Instant("between stages", os, "replace", r"\.base\.safetensors$"),
    "the second stage is announced": Instant("between stages", Observers, "emit", _event("stage_started"), after=True),
    "the run is taken up again": Instant("resuming", snapshot, "restore", after=True),
    "what the combiner learned is beside its place": Instant("end", os, "replace", r"combiners/"),
    "the model is half written": Instant("end", os, "replace", r"model/\w+/task\.json$"),
    "the card is beside its place": Instant("end", os, "replace", r"/README\.md$"),
    "the results are beside their place": Instant("end", os, "replace", r"/results\.json$"),
    "the results are there and the checkpoints too": Instant("end", shutil, "rmtree", r"/checkpoints$"),
}


def arm(instant: Instant, nth: int, end: Callable[[], None]) -> None:
    """Let `end` happen at the `nth` call."""
    function, left = getattr(instant.owner, instant.name), nth

    @wraps(function)
    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        here = instant.is_of(arguments)
        left -= here
        dies = here and left == 0
        if dies and instant.torn:
            path = _path(arguments[-1])
            os.truncate(path, os.path.getsize(path) // 2)
        if dies and not instant.after:
            end()
        result = function(*arguments, **options)
        if dies and instant.after:
            end()
        return result

    setattr(instant.owner, instant.name, counted)


def _end(kill: dict[str, Any]) -> None:
    """What happens to this process, or to its whole group."""
    for number in kill.get("signals", ()):
        signal.raise_signal(number)
    if "signals" in kill:
        return
    if kill["who"] == "whole":
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def a_run(job: dict[str, Any]) -> int:
    """All processes of a run, as the launcher starts and ends them."""
    os.setsid()
    redirect_output(job["log"])
    if job["world"] == 1:
        return a_process(job, 0)
    fork_ranks(lambda rank, arguments: a_process(job, rank))
    return launch.run(job["world"], job["arguments"])


def a_process(job: dict[str, Any], rank: int) -> int:
    kill = job["kill"]
    if kill and rank == (kill["who"] == "other"):
        arm(INSTANTS[kill["instant"]], kill["nth"], lambda: _end(kill))
    return run_command(job["arguments"])


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Run a job, and return when all of its processes have ended: a killed one holds the folder's lock until then."""
    started = time.monotonic()
    ended, alive = os.pipe()
    os.dup2(alive, ALIVE)  # held by every process of the run; a high number, closed after the lock's
    os.close(alive)
    process = Forked(lambda: a_run(job))
    os.close(ALIVE)
    while process.poll() is None:
        if job["after"] is not None and time.monotonic() - started > job["after"]:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        time.sleep(0.005)
    seconds = time.monotonic() - started
    os.read(ended, 1)
    os.close(ended)
    code = process.returncode or 0
    return {"code": 128 - code if code < 0 else code, "seconds": seconds}


if __name__ == "__main__":
    serve(answer)
