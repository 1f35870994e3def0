"""The launcher `slurm`: a job of a Slurm cluster for each run, on a file system that all machines share.

It calls `sbatch`, `squeue` and `scancel` itself: what is started are commands, while submitit, the usual library, sends
Python functions as pickles and keeps results of its own.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from hft_core import options
from hft_core.errors import HftError
from hft_core.launcher import Handle, Launcher, Slot

POLL_SECONDS = 10.0
"""Between two questions to Slurm about one job: its controller serves everyone."""
WARNING_SECONDS = 120
"""Before the time limit, a run is asked to save."""
ALIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "STAGE_OUT", "RESIZING", "STOPPED")


class Options(options.Options):
    """What each job asks for; the cluster's own defaults for what is left out."""

    partition: str | None = Field(default=None, description="partition of the cluster")
    account: str | None = Field(default=None, description="account that the time is charged to")
    qos: str | None = Field(default=None, description="quality of service")
    minutes: int | None = Field(default=None, ge=1, description="time limit of a job; a run saves before it ends")
    cpus: int = Field(default=4, ge=1, description="cores of a job, and threads that it computes with")
    gpus: int = Field(default=0, ge=0, description="GPUs of a job")
    memory: str | None = Field(default=None, pattern=r"^\d+[KMGT]?$", description="memory of a job: 16G")
    jobs: int = Field(default=16, ge=1, description="jobs at a time, where --slots does not say")


def build(options: Options) -> Launcher:
    return Slurm(options)


class Slurm(Launcher):
    """Submits a job for each command; the number of a job is kept beside its log, so that none is submitted twice."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def slots(self, count: int | None) -> list[Slot]:
        return [Slot(i, self._options.cpus) for i in range(count or self._options.jobs)]

    def launch(self, argv: Sequence[str], slot: Slot, log: Path) -> Handle:
        kept = log.with_name(f"{log.name}.job")
        if kept.is_file() and (known := Job(kept.read_text(encoding="utf-8").strip())).poll() is None:
            return known  # submitted by a command that has ended since
        log.parent.mkdir(parents=True, exist_ok=True)
        asked = self._options
        limits = {
            "partition": asked.partition,
            "account": asked.account,
            "qos": asked.qos,
            "time": asked.minutes,
            "mem": asked.memory,
            "gpus": asked.gpus or None,
            "signal": f"B:TERM@{WARNING_SECONDS}" if asked.minutes else None,
        }
        words = [f"--{key}={value}" for key, value in limits.items() if value is not None]
        words += [f"--job-name=hft-{log.stem}", f"--cpus-per-task={asked.cpus}", "--ntasks=1", "--parsable"]
        words += [f"--output={str(log.resolve()).replace('%', '%%')}", "--open-mode=append", "--export=ALL"]
        # `exec`: the signals that Slurm sends to the job's shell reach the run.
        told = _slurm("sbatch", *words, f"--wrap=exec {shlex.join(argv)}", environment=slot.environment())
        number = told.strip().split(";")[0]
        if not number.isdecimal():
            raise HftError(f"sbatch printed {told.strip()[:100]!r}, expected the number of a job")
        kept.write_text(number, encoding="utf-8")
        return Job(number)


class Job(Handle):
    """A job of the cluster."""

    def __init__(self, number: str) -> None:
        self.number = number
        self._asked = 0.0
        self._code: int | None = None

    def poll(self) -> int | None:
        now = time.monotonic()
        if self._code is None and (not self._asked or now - self._asked >= POLL_SECONDS):
            self._asked = now
            self._code = _exit_code(self.number)
        return self._code

    def stop(self) -> None:
        _slurm("scancel", "--state=PENDING", self.number, ignore="Invalid job id")
        _slurm("scancel", "--batch", "--signal=TERM", self.number, ignore="Invalid job id")


def _exit_code(number: str) -> int | None:
    """Return 0 for a job that has completed or is no longer known, 1 for one that failed, None while it is there.

    Also None while Slurm does not answer: a controller is restarted now and then, and its jobs live on.
    """
    try:
        told = _slurm(
            "squeue", "--states=all", "--noheader", "--format=%T", f"--jobs={number}", ignore="Invalid job id"
        )
    except HftError:
        return None
    state = told.strip()
    if state in ALIVE:
        return None
    return 0 if state in ("", "COMPLETED") else 1


def _slurm(command: str, *words: str, environment: dict[str, str] | None = None, ignore: str = "") -> str:
    """Return what a command of Slurm prints. Raises `HftError` where it is missing or fails; nothing if its errors
    contain `ignore`."""
    if shutil.which(command) is None:
        raise HftError(f"the launcher 'slurm' needs the command {command}: start hft on a login node of the cluster")
    ended = subprocess.run([command, *words], env=environment, capture_output=True, text=True, check=False)
    if ended.returncode and not (ignore and ignore in ended.stderr):
        raise HftError(f"{command} failed: {' '.join(ended.stderr.split())[:300] or f'exit code {ended.returncode}'}")
    return ended.stdout if not ended.returncode else ""
