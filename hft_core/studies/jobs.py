"""Run the arms of a study for each seed: ordinary run folders, in the slots of a launcher; finished ones stay."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hft_core.errors import HftError, UsageError
from hft_core.launcher import Handle, Launcher, Slot
from hft_core.runtime import locks, signals
from hft_core.runtime.files import write_text
from hft_core.runtime.run_folder import LOCK_FILE, RESULTS_FILE

if TYPE_CHECKING:
    from hft_core.recipe.schema import Recipe

POLL_SECONDS = 0.2
STOP_SECONDS = 600.0
"""How long runs may take to save, after they were asked to stop."""
TAIL_BYTES = 4096


@dataclass(frozen=True)
class Job:
    """One run of a study."""

    arm: str
    seed: int
    recipe: Path
    folder: Path
    log: Path
    shares: bool = False
    """Whether another run of the study begins with the same stages."""

    @property
    def finished(self) -> bool:
        return (self.folder / RESULTS_FILE).is_file()

    @property
    def title(self) -> str:
        return f"{self.arm}, seed {self.seed}"

    @property
    def in_use(self) -> bool:
        """Whether a process that an earlier command started still works in the folder."""
        if not self.folder.is_dir():
            return False
        try:
            with locks.locked(self.folder / LOCK_FILE):
                return False
        except locks.LockedError:
            return True
        except OSError:
            return False


Say = Callable[[str], None]


def write_recipe(path: Path, recipe: Recipe, seed: int) -> None:
    """Write the recipe of a run. Raises `UsageError` where the study began with another one."""
    from hft_core.recipe import recipe_file

    text = recipe_file.dump(recipe.model_copy(update={"seed": seed}))
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise UsageError(f"{path}: the recipe of this arm has changed since the study began: start a new study")
    write_text(path, text)


@dataclass
class JobRunner:
    """Runs jobs, as many at a time as there are slots."""

    launcher: Launcher
    slots: Sequence[Slot]
    shared: Path
    """The folder of shared stages."""
    options: Sequence[str] = ()
    """Global options of `hft`, such as `--plugin FILE.py`."""
    say: Say = lambda line: None
    failures: dict[tuple[str, int], str] = field(default_factory=dict)
    """What went wrong, by arm and seed."""

    def run(self, jobs: Iterable[Job]) -> None:
        """Run those that are not finished. A job that fails is reported and does not end the others.

        Raises `Interrupted` once the running ones have saved and stopped, if this process is asked to stop.
        """
        waiting = [job for job in jobs if not job.finished]
        free, running = list(self.slots), list[tuple[Job, Slot, Handle]]()
        total, done = len(waiting), 0
        try:
            while waiting or running:
                signals.check()
                while free and (job := next((job for job in waiting if not job.in_use), None)):
                    waiting.remove(job)
                    running.append((job, (slot := free.pop(0)), self._start(job, slot)))
                waiting = [job for job in waiting if not job.finished]  # by a process of an earlier command
                for entry in [entry for entry in running if entry[2].poll() is not None]:
                    running.remove(entry)
                    free.append(entry[1])
                    done += 1
                    self._ended(entry[0], entry[2].poll() or 0, f"{done}/{total}")
                time.sleep(POLL_SECONDS)
        except (signals.Interrupted, KeyboardInterrupt):
            stop_all([handle for _, _, handle in running], self.say)
            raise

    def _start(self, job: Job, slot: Slot) -> Handle:
        argv = [sys.executable, "-m", "hft_core", "run", str(job.recipe), "--out", str(job.folder), "--resume"]
        argv += ["--shared-stages", str(self.shared)] if job.shares else []
        return self.launcher.launch([*argv, *self.options], slot, job.log)

    def _ended(self, job: Job, code: int, place: str) -> None:
        if job.finished:
            self.say(f"{place} {job.title}")
            return
        reason = last_line(job.log) or f"exit code {code}"
        self.failures[job.arm, job.seed] = reason
        self.say(f"{place} {job.title}: failed: {reason} ({job.log})")


def stop_all(handles: Sequence[Handle], say: Say) -> None:
    """Ask all to stop, and wait until they have saved."""
    if handles:
        say(f"stopping: {len(handles)} runs are asked to save")
    for handle in handles:
        handle.stop()
    until = time.monotonic() + STOP_SECONDS
    with suppress(KeyboardInterrupt):  # a second Ctrl-C: they continue saving by themselves
        while any(handle.poll() is None for handle in handles) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty: what a process that failed said."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]


def refuse_without_any(jobs: Sequence[Job], failures: dict[tuple[str, int], str]) -> None:
    """Raise the first failure where no run of the study was finished."""
    if failures and not any(job.finished for job in jobs):
        (arm, seed), reason = next(iter(failures.items()))
        raise HftError(f"every run of the study failed; the first, {arm}, seed {seed}: {reason}")
    if not jobs:
        raise UsageError("the study has no runs")
