"""Merge finished runs of one base model into one run with all their tasks, and score each task beside its own run."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hft_core.errors import ModelError, UsageError
from hft_core.predict.saved_run import SavedRun, open_run
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import resolve
from hft_core.results import Scores
from hft_core.runs import assembly, pinning
from hft_core.runtime.run_folder import RunFolder
from hft_core.studies import merge_weights, merged_run, statistics
from hft_core.studies.merge_weights import MergeMethod

if TYPE_CHECKING:
    from hft_core.plugins.catalogue import Catalogue


@dataclass(frozen=True)
class TaskScore:
    """A task's main metric in its own run and with the merged trunk."""

    task: str
    run: str
    split: str
    metric: str
    own: float
    merged: float
    loss: float
    """How much worse the merged score is, in the metric; negative where it is better."""


@dataclass(frozen=True)
class MergeSummary:
    """What a merge did to each task."""

    method: str
    scores: tuple[TaskScore, ...]
    delta_m: float | None
    """Mean relative change over tasks; positive is better."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def merge(
    folders: Sequence[Path], out: Path, method: MergeMethod, catalogue: Catalogue, *, trust: bool = False
) -> MergeSummary:
    """Write the merged run to `out`, an ordinary run folder. `trust`: whether the base model may bring code.

    The trunk is the base model's with the merged changes of all runs, whose adapters are folded in first; heads stay as
    each run has them. Raises `UsageError` (and its kinds) for runs that cannot be merged.
    """
    started, folder = time.perf_counter(), RunFolder(out)
    folder.check_unused()
    runs = [open_run(path, catalogue, trust_remote_code=trust) for path in folders]
    owners = _owners(runs)
    recorded = [resolve(recipe_file.load(RunFolder(path).recipe), catalogue) for path in folders]
    base = assembly.open_backbone(recorded[0], trust_remote_code=trust)
    merged_run.check_base(folders, pinning.pin_opened(recorded[0], base, {}).weights)
    own = [merged_run.scores_of(run) for run in runs]
    for run in runs:
        merged_run.fold(run)
    weights = {name: tensor.cpu() for name, tensor in base.trunk.state_dict().items()}
    changed = [{name: tensor.cpu() for name, tensor in run.model.trunk.state_dict().items()} for run in runs]
    state = merge_weights.merged(weights, changed, method)
    for run in runs:
        run.model.trunk.load_state_dict(state)
    again = [merged_run.scores_of(run) for run in runs]
    resolved = merged_run.union(recorded, catalogue)
    model = merged_run.merged_model(resolved, owners, state, trust=trust)
    title = _title(method)
    how = f"{merged_run.names_of(runs)} ({title})"
    merged_run.write(folder, resolved, model, runs, again, how, started)
    return summary(runs, own, again, title)


def _owners(runs: Sequence[SavedRun]) -> dict[str, SavedRun]:
    """Return the run of each task. Raises `UsageError` for a task of two runs."""
    owners: dict[str, SavedRun] = {}
    for run in runs:
        for task in run.model.heads:
            if task in owners:
                raise UsageError(
                    f"task '{task}' is in {owners[task].folder} and in {run.folder}: each task keeps the head of one "
                    "run, so its name may be in one alone"
                )
            owners[task] = run
    return owners


def summary(
    runs: Sequence[SavedRun], own: Sequence[dict[str, Scores]], again: Sequence[dict[str, Scores]], title: str
) -> MergeSummary:
    """Compare the scores of runs before and after. Raises `ModelError` for a task without dev and test rows."""
    found, greater = [], {}
    for run, before, after in zip(runs, own, again, strict=True):
        for task in run.model.heads:
            head = run.model.head(task)
            greater[task], metric = head.greater_is_better, head.main_metric
            split = next((split for split in ("test", "dev") if task in before.get(split, {})), "")
            if not split:
                raise ModelError(f"{run.folder}: task '{task}' has neither dev nor test rows to be scored on")
            one, other = before[split][task][metric], after[split][task][metric]
            lost = (one - other) if greater[task] else (other - one)
            lost = lost if math.isfinite(lost) else math.inf
            found.append(TaskScore(task, run.folder.resolve().name, split, metric, one, other, lost))
    delta, _ = statistics.delta_m({s.task: s.merged for s in found}, {s.task: s.own for s in found}, greater)
    return MergeSummary(title, tuple(found), delta)


def _title(method: MergeMethod) -> str:
    density = f", density {method.density:g}" if method.density < 1 else ""
    return f"{method.name}, scale {method.scale:.4g}{density}"
