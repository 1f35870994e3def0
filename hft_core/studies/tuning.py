"""Give every arm of a study the same number of tries of its learning rate, and keep the one with the best dev scores.

A comparison at one fixed learning rate compares how well that rate happens to suit each arm. The tries are ordinary
runs with a seed of their own, so that the seeds that arms are judged by had no part in the choice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hft_core.errors import UsageError
from hft_core.runtime.files import read_json, write_json
from hft_core.runtime.run_folder import RESULTS_FILE
from hft_core.studies.arms import TUNED_KEY, Arm
from hft_core.studies.evidence import ArmEvidence, gather
from hft_core.studies.jobs import Job, JobRunner, write_recipe

if TYPE_CHECKING:
    from hft_core.recipe.schema import Recipe

FOLDER = "tuning"
RATIO = 3.0
"""Between one try and the next: about half a power of ten."""
SEED = 1_000_000
"""Of the tries: none that a study is likely to have."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The tries of one arm, and the learning rate that it is compared with."""

    arm: str
    key: str = TUNED_KEY
    """Of the last stage: `head_learning_rate` where the trunk is frozen."""
    rates: tuple[float, ...] = ()
    """The first is the arm's own."""
    gains: tuple[float | None, ...] = ()
    """Of each try on the first, on dev (`_gains`); None for a run that failed or diverged."""
    chosen: float | None = None
    failed: str = ""
    """Why the arm is compared as it is: its run at its own rate failed."""

    @property
    def at_edge(self) -> bool:
        """Whether a better rate may lie beyond those that were tried."""
        return self.chosen is not None and self.chosen in (min(self.rates), max(self.rates))


def factors(tries: int) -> list[float]:
    """Return what an arm's own rate is multiplied with: 1, 3, 1/3, 9, 1/9, …"""
    return [RATIO ** ((i + 1) // 2 * (1 if i % 2 else -1)) for i in range(tries)]


def tune(
    arms: Sequence[Arm], tries: int, tasks: Collection[str], folder: Path, runner: JobRunner
) -> tuple[list[Arm], list[Tuned]]:
    """Return the arms with their chosen learning rates, and what was tried. What `folder` holds is not run again.

    `tasks`: those that arms are judged by. Raises `UsageError` where they have no dev scores.
    """
    waiting = [arm for arm in arms if not _file(folder, arm).is_file()]
    own = [_job(arm, 0, arm.recipe, folder) for arm in waiting]
    runner.run(own)
    planned = {
        arm.name: _rates(arm, json.loads((job.folder / RESULTS_FILE).read_text(encoding="utf-8")), tries)
        for arm, job in zip(waiting, own, strict=True)
        if job.finished
    }
    runner.run(
        _job(arm, index, _with_rate(arm, *planned[arm.name], index), folder)
        for arm in waiting
        if arm.name in planned
        for index in range(1, tries)
    )
    for arm, job in zip(waiting, own, strict=True):
        if arm.name in planned:
            tuned = _choose(arm, *planned[arm.name], tasks, folder)
        else:
            tuned = Tuned(arm=arm.name, failed=runner.failures.get((job.arm, SEED), "its run was not finished"))
        write_json(_file(folder, arm), asdict(tuned))
    found = [_read(_file(folder, arm)) for arm in arms]
    return [_tuned_arm(arm, tuned) for arm, tuned in zip(arms, found, strict=True)], found


def _file(folder: Path, arm: Arm) -> Path:
    return folder / FOLDER / arm.name / "tuned.json"


def _read(path: Path) -> Tuned:
    kept: dict[str, Any] = read_json(path)
    return Tuned(**{**kept, "rates": tuple(kept["rates"]), "gains": tuple(kept["gains"])})


def _job(arm: Arm, index: int, recipe: Recipe, folder: Path) -> Job:
    place = folder / FOLDER / arm.name
    path = place / f"{index}.yaml"
    write_recipe(path, recipe, SEED)
    shares = len(recipe.stages) > 1
    return Job(
        f"tuning {arm.name}, try {index + 1}", SEED, path, place / f"try-{index}", place / f"{index}.log", shares
    )


def _rates(arm: Arm, results: dict[str, Any], tries: int) -> tuple[str, list[float]]:
    """Return the key that is tuned and its values, from the rates that the arm's own run used."""
    stage = results["stages"][-1]
    key, own = TUNED_KEY, float(stage["learning_rate"])
    if not stage["trainable"]:  # the trunk's rate has no effect
        heads = [float(rate) for rate in stage["head_learning_rates"].values()] or [float(stage["head_learning_rate"])]
        key, own = f"head_{TUNED_KEY}", math.exp(sum(map(math.log, heads)) / len(heads))
    return key, [own * factor for factor in factors(tries)]


def _with_rate(arm: Arm, key: str, rates: Sequence[float], index: int) -> Recipe:
    """Return the arm's recipe with a rate; as it is for the first, which keeps each head's own."""
    if index == 0:
        return arm.recipe
    *before, last = arm.recipe.stages
    stages = (*before, last.model_copy(update={key: float(f"{rates[index]:.3g}")}))
    return arm.recipe.model_copy(update={"stages": stages})


def _choose(arm: Arm, key: str, rates: Sequence[float], tasks: Collection[str], folder: Path) -> Tuned:
    place = folder / FOLDER / arm.name
    runs = [gather(arm.name, {SEED: place / f"try-{index}"}, folder, {}) for index in range(len(rates))]
    judged = [task for task in tasks if task in runs[0].main_metrics]
    if missing := [task for task in judged if runs[0].mean("dev", task) is None]:
        raise UsageError(f"--tune chooses by dev scores, but task '{missing[0]}' has no dev rows")
    gains = _gains(runs, judged)
    known = [(gain, -index) for index, gain in enumerate(gains) if gain is not None]
    if not known:
        return Tuned(arm=arm.name, failed="the dev scores at its own learning rate are not finite")
    best = -max(known)[1]  # of equals the one nearest to the arm's own
    return Tuned(arm=arm.name, key=key, rates=tuple(rates), gains=tuple(gains), chosen=rates[best])


def _gains(runs: Sequence[ArmEvidence], tasks: Sequence[str]) -> list[float | None]:
    """Return the gain of each try on the first: the mean over tasks of the difference in the main dev score, divided by
    the task's largest one (not by the first one, which may be 0). None for a try without finite scores."""
    scores = {task: [run.mean("dev", task) for run in runs] for task in tasks}
    gains: list[float | None] = []
    for index in range(len(runs)):
        parts = []
        for task, values in scores.items():
            finite = [value for value in values if value is not None and math.isfinite(value)]
            value, base = values[index], values[0]
            if value is None or base is None or not math.isfinite(value) or not math.isfinite(base):
                break
            sign = 1.0 if runs[0].greater_is_better.get(task, True) else -1.0
            parts.append(sign * (value - base) / (max(map(abs, finite)) or 1.0))
        gains.append(sum(parts) / len(parts) if parts and len(parts) == len(scores) else None)
    return gains


def _tuned_arm(arm: Arm, tuned: Tuned) -> Arm:
    index = 0 if tuned.chosen is None else tuned.rates.index(tuned.chosen)
    if index == 0:
        return arm
    recipe = _with_rate(arm, tuned.key, tuned.rates, index)
    stage = len(recipe.stages) - 1
    value = getattr(recipe.stages[-1], tuned.key)
    return replace(arm, recipe=recipe, overrides=(*arm.overrides, f"stages.{stage}.{tuned.key}={value:g}"))
