"""Sweep: try values of a recipe's keys, guided by the dev scores of the trials before; each trial is a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from hft_core.errors import HftError, UsageError
from hft_core.launcher import Launcher
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import resolve
from hft_core.recipe.yaml_source import parse_value
from hft_core.runtime import locks
from hft_core.runtime.files import write_json, write_text
from hft_core.studies import arms, launchers, optuna_study, search_space, sweep_plan, trial_jobs
from hft_core.studies.jobs import Say
from hft_core.studies.sweep_plan import SweepPlan
from hft_core.studies.sweep_worker import ASKING, ERROR, VALUES, SweepWorker
from hft_core.studies.trial_jobs import Objective

if TYPE_CHECKING:
    from hft_core.plugins.catalogue import Catalogue
    from hft_core.recipe.schema import Recipe

BASE_FILE, BEST_FILE, COMPARE_FILE, SWEEP_FILE = "base.yaml", "best.yaml", "compare.yaml", "sweep.json"
COMPARED_SEEDS = 5
COMPARED_FRONT = 5
"""Trials of the front, the best ones, that are compared on fresh seeds."""
FORMAT = 1


@dataclass(frozen=True)
class TrialResult:
    """One trial of a sweep."""

    number: int
    """From 1."""
    state: str
    """`complete`, `pruned`, `fail` or `running`."""
    values: dict[str, str]
    """YAML by key path."""
    score: float | None
    """The objective's metric, a mean over seeds; of a pruned trial, at its last evaluation or run."""
    evaluations: int
    """Those that the pruner saw: evaluations of a run, or runs where a trial has several seeds."""
    error: str = ""
    costs: dict[str, float] = field(default_factory=dict)
    """What was minimized beside the metric."""


@dataclass(frozen=True)
class SweepSummary:
    """What `sweep.json` holds."""

    objective: str
    trials: tuple[TrialResult, ...]
    best: int
    """The number of the trial with the best score."""
    front: tuple[int, ...] = ()
    """Where costs count: the trials than which no other is at least as good in all and better in one, best score
    first."""

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}


def sweep(
    asked: SweepPlan | None,
    folder: Path,
    catalogue: Catalogue,
    *,
    slots: int | None = None,
    trials: int | None = None,
    options: Sequence[str] = (),
    launcher: Launcher | None = None,
    say: Say = lambda line: None,
) -> SweepSummary | None:
    """Begin a sweep in `folder`, or work on the one that is there (`asked` is None) beside its other workers.

    Returns None where other workers still compute trials: the last one to end writes the results. Raises `UsageError`
    (and its kinds), and `HftError` where every trial failed.
    """
    plan = sweep_plan.kept(folder, trials) if asked is None else asked
    path = folder / BASE_FILE if asked is None else Path(plan.recipe)
    source = recipe_file.read(path)
    recipe = arms.with_fixed_splits(resolve(recipe_file.validate(source), catalogue, source.where).recipe)
    dimensions = search_space.checked(search_space.parse(plan.search), source, catalogue)
    objective = trial_jobs.objective_of(recipe, catalogue, plan.objective, plan.minimize)
    if asked is not None:
        _begin(plan, recipe, folder)
    elif trials is not None:
        plan.write(folder)
    base = recipe_file.read(folder / BASE_FILE)
    study = optuna_study.open_study(folder, plan.pruner, len(plan.minimize))
    launcher = launcher or launchers.launcher_of(None, catalogue)
    worker = SweepWorker(
        folder, study, plan.trials, base, recipe, dimensions, objective, catalogue, launcher, plan.seeds, options, say
    )
    worker.run(launcher.slots(slots))
    with locks.locked(folder / ASKING, wait=True):
        if left := optuna_study.trials_of(study, TrialState.RUNNING):
            say(f"{len(left)} trials are computed by other workers: the last one to end writes the results")
            return None
        return _end(folder, study, plan, objective, recipe)


def _begin(plan: SweepPlan, recipe: Recipe, folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"'{folder}' is not empty: name another folder, or give --resume to work on its sweep")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / BASE_FILE, recipe_file.dump(recipe))
    plan.write(folder)


def _end(folder: Path, study: optuna.Study, plan: SweepPlan, objective: Objective, recipe: Recipe) -> SweepSummary:
    """Write the best recipe, what compares it with the sweep's own recipe on fresh seeds, and all trials."""
    trials = study.get_trials(deepcopy=False)
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not done:
        reasons = [trial.user_attrs[ERROR] for trial in trials if ERROR in trial.user_attrs]
        raise HftError(f"every trial of the sweep failed; the first: {next(iter(reasons), 'no reason is known')}")
    best = max(done, key=lambda trial: (trial.values[0], -trial.number))
    front = sorted(study.best_trials, key=lambda trial: -trial.values[0]) if plan.minimize else []
    results = tuple(_result(trial, objective) for trial in trials)
    summary = SweepSummary(objective.title, results, best.number + 1, tuple(trial.number + 1 for trial in front))
    tried = trial_jobs.jobs_of(folder, best.number, plan.seeds)[0].recipe.read_text(encoding="utf-8")
    score = objective.sign * best.values[0]
    write_text(
        folder / BEST_FILE, f"# Trial {best.number + 1} of {len(trials)}: {objective.title} {score:.6g}.\n{tried}"
    )
    arms_of = {"best": best, **{f"trial-{t.number + 1}": t for t in front[:COMPARED_FRONT] if t.number != best.number}}
    compared = {
        "recipe": BASE_FILE,
        "arms": {"base": {}, **{name: _overrides(trial) for name, trial in arms_of.items()}},
        "against": "base",
        "seeds": [recipe.seed + plan.seeds + i for i in range(COMPARED_SEEDS)],
    }
    write_text(folder / COMPARE_FILE, yaml.safe_dump(compared, sort_keys=False, allow_unicode=True))
    write_json(folder / SWEEP_FILE, summary.to_json())
    return summary


def _overrides(trial: FrozenTrial) -> dict[str, Any]:
    return {path: parse_value(text, path) for path, text in trial.user_attrs[VALUES].items()}


def _result(trial: FrozenTrial, objective: Objective) -> TrialResult:
    reported = trial.intermediate_values
    value, *costs = trial.values or [reported.get(max(reported, default=0))]
    return TrialResult(
        number=trial.number + 1,
        state=trial.state.name.lower(),
        values=dict(trial.user_attrs.get(VALUES, {})),
        score=None if value is None else objective.sign * value,
        evaluations=len(reported),
        error=str(trial.user_attrs.get(ERROR, "")),
        costs=dict(zip(objective.costs, costs, strict=False)),
    )
