"""One trial of a sweep as an ordinary run: its folder, its dev scores while it trains, and what it ends with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hft_core.errors import HftError, UsageError
from hft_core.launcher import Handle, Slot
from hft_core.runtime.files import read_json
from hft_core.runtime.run_folder import RunFolder
from hft_core.studies.jobs import Job

if TYPE_CHECKING:
    import optuna

    from hft_core.plugins.catalogue import Catalogue
    from hft_core.recipe.schema import Recipe

RECIPES, RUNS, LOGS = "recipes", "runs", "logs"


@dataclass(frozen=True)
class Objective:
    """What a sweep maximizes: the mean of the tasks' main dev metrics, or minus the metric where lower is better."""

    metrics: Mapping[str, str]
    """The main metric of each task that counts."""
    sign: float
    costs: tuple[str, ...] = ()
    """What it minimizes beside them, of `sweep_plan.COSTS`."""

    def value(self, scores: Mapping[str, Mapping[str, Any]]) -> float | None:
        """Return the value of some dev scores; None where one is missing or not finite."""
        found = [scores.get(task, {}).get(metric) for task, metric in self.metrics.items()]
        known = [float(value) for value in found if value is not None and math.isfinite(value)]
        return self.sign * sum(known) / len(found) if found and len(known) == len(found) else None

    @property
    def title(self) -> str:
        """The metrics in words."""
        named = [f"{task} {metric}" for task, metric in self.metrics.items()]
        return f"dev {named[0]}" if len(named) == 1 else f"mean of dev {', '.join(named)}"


def objective_of(recipe: Recipe, catalogue: Catalogue, task: str | None, costs: tuple[str, ...] = ()) -> Objective:
    """Return what a sweep of the recipe maximizes: one task's metric, or the mean over all tasks with labels.

    Raises `UsageError` for an unknown task, and where a mean would mix metrics that are not alike.
    """
    from hft_core.errors import did_you_mean
    from hft_core.recipe.resolve import resolve
    from hft_core.runs import assembly
    from hft_core.studies import controls

    heads = assembly.build_heads(resolve(recipe, catalogue))
    if task is not None and task not in heads:
        raise UsageError(f"--objective {task}: the recipe has no such task.{did_you_mean(task, heads)}")
    counted = [task] if task is not None else list(controls.judged(recipe, catalogue))
    directions = {heads[name].greater_is_better for name in counted}
    if len(counted) > 1 and directions != {True}:
        raise UsageError(
            f"the mean over tasks needs metrics of which higher is better: give --objective, one of "
            f"{', '.join(counted)}"
        )
    sign = 1.0 if directions == {True} else -1.0
    return Objective({name: heads[name].main_metric for name in counted}, sign, costs)


def jobs_of(folder: Path, number: int, seeds: int = 1) -> list[Job]:
    """Return the runs of a trial, one for each seed."""
    return [_job(folder, f"trial-{number:04d}" + (f"-run-{i}" if seeds > 1 else "")) for i in range(seeds)]


def _job(folder: Path, name: str) -> Job:
    return Job(name, 0, folder / RECIPES / f"{name}.yaml", folder / RUNS / name, folder / LOGS / f"{name}.log")


def dev_values(run: RunFolder, stage: str, objective: Objective) -> list[float]:
    """Return the value at each evaluation in the training of a stage so far, from the log that the run's observer
    writes; rows that are evaluated again with the weights of an earlier step count once."""
    try:
        lines = run.log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found: dict[int, float] = {}
    for line in lines:
        try:
            event = json.loads(line) if '"evaluation"' in line else {}
        except ValueError:  # not written to its end
            continue
        if event.get("event") == "evaluation" and event.get("split") == "dev" and event.get("stage") == stage:
            value = objective.value(event["scores"])
            if value is not None and event["step"] > max(found, default=0):
                found[event["step"]] = value
    return list(found.values())


def final_values(run: RunFolder, objective: Objective) -> list[float]:
    """Return the value of a finished run, and its costs. Raises `HftError` where it has no dev scores."""
    results = read_json(run.results)
    value = objective.value(results["final"].get("dev", {}))
    if value is None:
        raise HftError(f"no finite dev score of {', '.join(objective.metrics)}")
    return [value, *(_cost(results, name) for name in objective.costs)]


def _cost(results: Mapping[str, Any], name: str) -> float:
    if name == "seconds":
        return float(sum(stage["seconds"]["total"] for stage in results["stages"]))
    return float(results["stages"][-1]["trainable"] if name == "parameters" else results["peak_memory"])


@dataclass
class ActiveTrial:
    """A trial that this process looks after."""

    trial: optuna.Trial
    jobs: Sequence[Job]
    """One for each seed, which follow each other."""
    slot: Slot
    held: ExitStack
    """Its lock, which says to other processes that it is looked after."""
    stage: str
    """The stage whose evaluations are reported: the last one."""
    at: int = 0
    """Which of the runs is computed."""
    handle: Handle | None = None
    """None while a process that an earlier worker started still computes it."""
    reported: int = 0
    """Evaluations, or runs where there are several, that the study knows of."""
    pruned: bool = False
    """Whether the pruner ended it."""

    @property
    def job(self) -> Job:
        """The run that is computed."""
        return self.jobs[self.at]

    def report(self, objective: Objective) -> None:
        """Report new evaluations of the only run, and ask it to stop where the pruner says so."""
        if len(self.jobs) > 1 or objective.costs:  # Optuna takes none where there are several objectives
            return
        values = dev_values(RunFolder(self.job.folder), self.stage, objective)
        for index, value in list(enumerate(values))[self.reported :]:
            self.trial.report(value, index + 1)
            self.reported = index + 1
        if self.reported and not self.pruned and self.handle is not None and self.trial.should_prune():
            self.pruned = True
            self.handle.stop()

    def next_run(self, objective: Objective) -> bool:
        """Report the run that has ended, one of several, and turn to the next; False where there is none, or the
        pruner ends the trial. Raises `HftError` where the run has no dev scores."""
        if len(self.jobs) > 1 and self.at >= self.reported:
            self.reported = self.at + 1
            value, *costs = final_values(RunFolder(self.job.folder), objective)
            if not costs:
                self.trial.report(value, self.at)
        self.pruned = self.at + 1 < len(self.jobs) and not objective.costs and self.trial.should_prune()
        if self.pruned or self.at + 1 == len(self.jobs):
            return False
        self.at, self.handle = self.at + 1, None
        return True

    def values(self, objective: Objective) -> list[float]:
        """Return the mean over all runs of their value and costs. Raises `HftError` where one has no dev scores."""
        found = [final_values(RunFolder(job.folder), objective) for job in self.jobs]
        return [sum(each) / len(found) for each in zip(*found, strict=True)]
