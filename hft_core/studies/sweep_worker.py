"""Compute the trials of a sweep, in the slots of a launcher; any number of processes may do so in one folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial, Trial, TrialState

from hft_core.errors import HftError
from hft_core.launcher import Launcher, Slot
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import resolve
from hft_core.runtime import locks, signals
from hft_core.runtime.files import write_text
from hft_core.studies import optuna_study, search_space, trial_jobs
from hft_core.studies.jobs import POLL_SECONDS, Job, Say, last_line, stop_all
from hft_core.studies.search_space import Dimension
from hft_core.studies.trial_jobs import ActiveTrial, Objective

if TYPE_CHECKING:
    import optuna

    from hft_core.plugins.catalogue import Catalogue
    from hft_core.recipe.schema import Recipe
    from hft_core.recipe.yaml_source import Source

ASKING, TRIAL_LOCKS = ".asking.lock", ".locks"
VALUES, ERROR = "values", "error"
"""Attributes of a trial: its values as YAML by key path, and why it failed."""


@dataclass
class SweepWorker:
    """One process that works on a sweep."""

    folder: Path
    study: optuna.Study
    trials: int
    """How many there are to be, of all workers together."""
    base: Source
    """The recipe whose keys are set."""
    recipe: Recipe
    dimensions: Sequence[Dimension]
    objective: Objective
    catalogue: Catalogue
    launcher: Launcher
    seeds: int = 1
    """Runs of a trial."""
    options: Sequence[str] = ()
    """Global options of `hft`."""
    say: Say = lambda line: None
    active: list[ActiveTrial] = field(default_factory=list)

    def run(self, slots: Sequence[Slot]) -> None:
        """Compute trials until as many as were asked for have been begun and ended here, those included that a killed
        process left behind. A trial that fails is reported and does not end the others.

        Raises `Interrupted`, once the running ones have saved and stopped, if this process is asked to stop.
        """
        free = list(slots)
        try:
            while True:
                signals.check()
                while free and (taken := self._next(free[0])) is not None:
                    self.active.append(taken)
                    free.pop(0)
                if not self.active:
                    return
                for each in [each for each in self.active if self._has_ended(each)]:
                    self.active.remove(each)
                    each.held.close()
                    free.append(each.slot)
                time.sleep(POLL_SECONDS)
        except (signals.Interrupted, KeyboardInterrupt):
            stop_all([each.handle for each in self.active if each.handle is not None], self.say)
            raise
        finally:
            for each in self.active:
                each.held.close()

    def _next(self, slot: Slot) -> ActiveTrial | None:
        """Take over a trial that nobody looks after, or begin one; None where all that were asked for are taken."""
        with locks.locked(self.folder / ASKING, wait=True):
            for left in optuna_study.trials_of(self.study, TrialState.RUNNING):
                if (held := self._hold(left.number)) and (taken := self._taken_over(left, slot, held)):
                    return taken
            while len(optuna_study.trials_of(self.study)) < self.trials:
                if taken := self._begun(slot):
                    return taken
        return None

    def _hold(self, number: int) -> ExitStack | None:
        """Lock a trial; None where this or another process looks after it."""
        (self.folder / TRIAL_LOCKS).mkdir(exist_ok=True)
        held = ExitStack()
        try:
            held.enter_context(locks.locked(self.folder / TRIAL_LOCKS / f"{number}.lock"))
        except locks.LockedError:
            return None
        return held

    def _begun(self, slot: Slot) -> ActiveTrial | None:
        """Begin a trial; None where its values do not go together, so that it has failed."""
        trial = optuna_study.asked(self.study, self.recipe.seed)
        held = self._hold(trial.number)
        assert held is not None, "a trial that was just begun belongs to nobody else"
        values = search_space.suggested(trial, self.dimensions)
        trial.set_user_attr(VALUES, values)
        try:
            self._write_recipe(trial.number, values)
        except HftError as error:
            self._fail(trial, str(error))
            held.close()
            return None
        return self._active(trial, slot, held)

    def _write_recipe(self, number: int, values: Mapping[str, str]) -> None:
        assignments = [f"{path}={text}" for path, text in values.items()]
        for index, job in enumerate(self._jobs(number)):
            seed = f"seed={self.recipe.seed + index}"
            source = recipe_file.override(self.base, [*assignments, seed] if self.seeds > 1 else assignments)
            recipe = resolve(recipe_file.validate(source), self.catalogue, source.where).recipe
            job.recipe.parent.mkdir(parents=True, exist_ok=True)
            write_text(job.recipe, recipe_file.dump(recipe))

    def _jobs(self, number: int) -> list[Job]:
        return trial_jobs.jobs_of(self.folder, number, self.seeds)

    def _taken_over(self, left: FrozenTrial, slot: Slot, held: ExitStack) -> ActiveTrial | None:
        """Resume a trial of a process that ended; one without its values has failed."""
        trial = Trial(self.study, left._trial_id)
        if not self._jobs(left.number)[-1].recipe.exists():
            self._fail(trial, "its process was killed before it began")
            held.close()
            return None
        taken = self._active(trial, slot, held)
        taken.reported = len(left.intermediate_values)
        return taken

    def _active(self, trial: Trial, slot: Slot, held: ExitStack) -> ActiveTrial:
        return ActiveTrial(trial, self._jobs(trial.number), slot, held, self.recipe.stages[-1].name)

    def _has_ended(self, each: ActiveTrial) -> bool:
        """Look at a trial: start its run, report its scores, and tell the study how it ended."""
        if each.handle is None and not each.job.finished:
            if not each.job.in_use:  # by a run that an earlier worker started
                self._start(each)
            return False
        code = None if each.handle is None else each.handle.poll()
        each.report(self.objective)
        if each.handle is not None and code is None:
            return False
        if each.job.finished:
            try:
                if each.next_run(self.objective):
                    return False
                if not each.pruned:
                    self._complete(each)
                    return True
            except HftError as error:
                self._fail(each.trial, str(error))
                return True
        if each.pruned:
            self.study.tell(each.trial, state=TrialState.PRUNED)
            what = "runs" if self.seeds > 1 else "evaluations"
            self._told(each.trial, f"pruned after {each.reported} {what}")
        else:
            reason = last_line(each.job.log).removeprefix("error: ") if code != -9 else ""
            self._fail(each.trial, reason or f"exit code {code}" + (": killed, out of memory?" if code == -9 else ""))
        return True

    def _start(self, each: ActiveTrial) -> None:
        job = each.job
        argv = [sys.executable, "-m", "hft_core", "run", str(job.recipe), "--out", str(job.folder), "--resume"]
        each.handle = self.launcher.launch([*argv, *self.options], each.slot, job.log)

    def _complete(self, each: ActiveTrial) -> None:
        values = each.values(self.objective)
        self.study.tell(each.trial, values)
        costs = "".join(f", {n} {v:.4g}" for n, v in zip(self.objective.costs, values[1:], strict=True))
        self._told(each.trial, f"{self.objective.title} {self.objective.sign * values[0]:.4g}{costs}")

    def _fail(self, trial: Trial, reason: str) -> None:
        trial.set_user_attr(ERROR, reason)
        self.study.tell(trial, state=TrialState.FAIL)
        self._told(trial, f"failed: {reason}")

    def _told(self, trial: Trial, what: str) -> None:
        named = ", ".join(f"{path}={text}" for path, text in trial.user_attrs.get(VALUES, {}).items())
        self.say(f"trial {trial.number + 1}/{self.trials}: {what}{f' ({named})' if named else ''}")
