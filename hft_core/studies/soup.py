"""Average the weights of finished runs of the same tasks: model soups (Wortsman et al. 2022, arXiv:2203.05482)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hft_core.errors import UsageError
from hft_core.pins import Pins
from hft_core.predict.saved_run import SavedRun, open_run
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import resolve
from hft_core.results import Scores
from hft_core.runs import assembly, learned_facts, pinning
from hft_core.runtime.run_folder import RunFolder
from hft_core.studies import merged_run
from hft_core.studies.merge import MergeSummary, summary

if TYPE_CHECKING:
    from hft_core.plugins.catalogue import Catalogue

METHODS = ("soup", "greedy-soup")
"""`soup`: the mean of all runs. `greedy-soup`: from the best run on dev, others are added in the order of their dev
scores, each kept where the mean's dev score does not fall."""
Weights = dict[str, Tensor]


def soup(folders: Sequence[Path], out: Path, method: str, catalogue: Catalogue, *, trust: bool = False) -> MergeSummary:
    """Write a run whose weights, trunk and heads, are the mean of those of several runs of the same tasks.

    Adapters are folded into the trunk first. The scores beside are those of the best run on dev. `trust`: whether the
    base model may bring code. Raises `UsageError` (and its kinds) for runs that are not alike.
    """
    started, folder = time.perf_counter(), RunFolder(out)
    folder.check_unused()
    runs = [open_run(path, catalogue, trust_remote_code=trust) for path in folders]
    _check_alike(runs)
    recorded = resolve(recipe_file.load(RunFolder(folders[0]).recipe), catalogue)
    base = assembly.open_backbone(recorded, trust_remote_code=trust)
    merged_run.check_base(folders, pinning.pin_opened(recorded, base, {}).weights)
    scores = {run.folder: merged_run.scores_of(run) for run in runs}
    for run in runs:
        merged_run.fold(run)
    weights = {run.folder: _weights(run) for run in runs}
    best, *others = sorted(runs, key=lambda run: -_value(run, scores[run.folder]))
    taken, again = _mix(best, others, weights, scores[best.folder], greedy=method == "greedy-soup")
    title = f"{method} of {len(taken)} of {len(runs)} runs"
    resolved = merged_run.union([recorded], catalogue)
    owners = dict.fromkeys(best.model.heads, best)
    model = merged_run.merged_model(resolved, owners, best.model.trunk.state_dict(), trust=trust)
    merged_run.write(folder, resolved, model, [best], [again], f"{merged_run.names_of(taken)} ({method})", started)
    return summary([best], [scores[best.folder]], [again], title)


def _mix(
    best: SavedRun,
    others: Sequence[SavedRun],
    weights: Mapping[Path, Weights],
    scores: dict[str, Scores],
    *,
    greedy: bool,
) -> tuple[list[SavedRun], dict[str, Scores]]:
    """Give the best run the mean of the weights; return the runs in it, and its scores."""
    taken = [best]
    for other in others if greedy else ():
        best.model.load_state_dict(_mean([weights[run.folder] for run in (*taken, other)]))
        found = merged_run.scores_of(best)
        if _value(best, found) >= _value(best, scores):
            taken, scores = [*taken, other], found
    taken = taken if greedy else [best, *others]
    best.model.load_state_dict(_mean([weights[run.folder] for run in taken]))
    return taken, scores if greedy else merged_run.scores_of(best)


def _weights(run: SavedRun) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in run.model.state_dict().items()}


def _mean(states: Sequence[Weights]) -> Weights:
    return {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in states[0].items()
    }


def _value(run: SavedRun, scores: Mapping[str, Scores]) -> float:
    """Return the mean of the tasks' main dev metrics, those that are better when lower with a minus."""
    heads = [(task, run.model.head(task)) for task in run.model.heads]
    found = [scores["dev"][task][head.main_metric] * (1 if head.greater_is_better else -1) for task, head in heads]
    return statistics.fmean(found)


def _check_alike(runs: Sequence[SavedRun]) -> None:
    """Raise `UsageError` unless all runs have the same tasks with the same heads, and the same dev and test rows."""
    first = runs[0]
    for run in runs:
        if run.model.heads.keys() != first.model.heads.keys():
            raise UsageError(
                f"{run.folder} has the tasks {', '.join(run.model.heads)}, and {first.folder} has "
                f"{', '.join(first.model.heads)}: a soup is of runs of the same tasks"
            )
        shapes = {name: tensor.shape for name, tensor in run.model.heads.state_dict().items()}
        if shapes != {name: tensor.shape for name, tensor in first.model.heads.state_dict().items()}:
            raise UsageError(f"{run.folder} has heads of other sizes than {first.folder}")
        for task in run.model.heads:
            facts, others = run.model.head(task).facts, first.model.head(task).facts
            if differs := learned_facts.difference(facts, others, (f"in {run.folder}", f"in {first.folder}")):
                raise UsageError(
                    f"task '{task}' has learned other facts in its runs ({differs}): a soup has one head for all; "
                    "temperatures and thresholds are fitted to each run (calibrate, tune_threshold)"
                )
        pins, of_first = (RunFolder(each.folder).pins() or Pins() for each in (run, first))
        for split in ("dev", "test"):
            if pins.rows.get(split) != of_first.rows.get(split):
                raise UsageError(
                    f"{run.folder} has other {split} rows than {first.folder}: a soup is chosen and judged by rows "
                    "that none of its runs has trained on (split.seed)"
                )
        if any(task not in pins.rows.get("dev", {}) for task in run.model.heads):
            raise UsageError(f"{run.folder} has a task without dev rows, by which a soup is chosen")
