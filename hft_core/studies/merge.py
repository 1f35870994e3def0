"""Merge finished runs of one base model into one run with all their tasks, and score each task beside its own run."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hft_core.errors import ModelError, UsageError
from hft_core.model.hybrid import HybridModel
from hft_core.predict import prediction
from hft_core.predict.saved_run import SavedRun, open_run
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import Resolved, resolve
from hft_core.results import RunResult, Scores
from hft_core.runs import assembly, model_folders, pinning
from hft_core.runs.assembly import BuiltRun
from hft_core.runs.model_card import card
from hft_core.runs.model_folders import own_state
from hft_core.runtime.files import follow_umask
from hft_core.runtime.run_folder import RunFolder
from hft_core.studies import merge_weights, statistics
from hft_core.studies.arms import with_fixed_splits
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
    _check_base(folders, pinning.pin_opened(recorded[0], base, {}).weights)
    own = [_scores(run) for run in runs]
    for run in runs:
        _fold(run)
    weights = {name: tensor.cpu() for name, tensor in base.trunk.state_dict().items()}
    changed = [{name: tensor.cpu() for name, tensor in run.model.trunk.state_dict().items()} for run in runs]
    state = merge_weights.merged(weights, changed, method)
    for run in runs:
        run.model.trunk.load_state_dict(state)
    again = [_scores(run) for run in runs]
    resolved = _union(recorded, catalogue)
    model = _model(resolved, owners, state, trust=trust)
    _write(folder, resolved, model, runs, again, method, started)
    return _summary(runs, own, again, method)


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


def _check_base(folders: Sequence[Path], weights: str) -> None:
    """Raise `UsageError` unless all runs began with the weights of this digest and with one tokenizer."""
    tokenizer = ""
    for folder in folders:
        pins = RunFolder(folder).pins()
        if pins is None or not pins.weights:
            raise UsageError(f"{folder} does not say which weights it began with: train it anew to merge it")
        if pins.weights != weights:
            raise UsageError(f"{folder} began with other weights than the base model of {folders[0]} has now")
        if tokenizer and pins.tokenizer != tokenizer:
            raise UsageError(f"{folder} has another tokenizer than {folders[0]}")
        tokenizer = pins.tokenizer


def _scores(run: SavedRun) -> dict[str, Scores]:
    measured = prediction.evaluate_recipe_data(run, list(run.model.heads))
    return {split: part.scores for split, part in measured.items()}


def _fold(run: SavedRun) -> None:
    stage = run.resolved.stages[-1]
    if run.model.strategy.adapter:
        if not stage.merges:
            name = stage.strategy.entry.name if stage.strategy is not None else ""
            raise UsageError(f"{run.folder}: what strategy '{name}' added cannot be folded into the trunk")
        run.model.fold_strategy()
    run.plan = None


def _union(recorded: Sequence[Resolved], catalogue: Catalogue) -> Resolved:
    """Return a recipe with the tasks of all runs, each with the rows that its run had in each split; its one stage is
    for the whole trunk."""
    parts = [with_fixed_splits(each.recipe).model_dump(mode="json") for each in recorded]
    data = parts[0]
    for other in parts[1:]:
        data["tasks"] |= other["tasks"]
    data["stages"] = [{"name": "merged", "tasks": list(data["tasks"]), "strategy": "full"}]
    data["output"] = {}
    return resolve(recipe_file.from_dict(data, "merged recipe"), catalogue)


def _model(
    resolved: Resolved,
    owners: Mapping[str, SavedRun],
    state: Mapping[str, Tensor],
    *,
    trust: bool,
) -> HybridModel:
    """Build the model of all tasks: the merged trunk, and each head as its run has it."""
    heads = assembly.build_heads(resolved)
    for task, head in heads.items():
        head.restore(owners[task].model.head(task).facts)
    model = assembly.attach(assembly.open_backbone(resolved, trust_remote_code=trust), heads)
    model.trunk.load_state_dict(state)
    for task, head in heads.items():
        owner = owners[task].model
        old = owner.head(task).family
        if head.family is not None and old is not None:
            head.family.load_plain_state({name: tensor.cpu() for name, tensor in old.plain_state().items()})
        else:
            own = {name: tensor.detach().cpu() for name, tensor in own_state(owner, task).items()}
            head.load_state_dict(own, strict=False)
    return model.eval()


def _write(
    folder: RunFolder,
    resolved: Resolved,
    model: HybridModel,
    runs: Sequence[SavedRun],
    scores: Sequence[dict[str, Scores]],
    method: MergeMethod,
    started: float,
) -> None:
    rows: dict[str, Any] = {}
    for run in runs:
        rows |= assembly.load_rows(run.resolved, {task: run.model.head(task) for task in run.model.heads}, {})
    folder.open(resume=False)
    folder.write_recipe(recipe_file.dump(resolved.recipe))
    limits = assembly.max_lengths(resolved, model.heads, model)
    model_folders.save_model(folder.model, model, trunk_changed=True, max_lengths=limits)
    follow_umask(folder.model)
    machine = runs[0].machine
    names = ", ".join(run.folder.resolve().name for run in runs)
    final = {split: {t: s for part in scores for t, s in part.get(split, {}).items()} for split in ("dev", "test")}
    heads = {task: model.head(task) for task in model.heads}
    result = RunResult(
        folder=folder.path,
        final=final,
        main_metrics={task: head.main_metric for task, head in heads.items()},
        base_lm_loss={},
        stages=(),
        seconds=time.perf_counter() - started,
        device="" if machine is None else str(machine.device),
        precision="fp32" if machine is None else machine.precision.name,
        precision_reason="" if machine is None else machine.precision.reason,
        versions=pinning.versions(resolved),
        plugins=tuple(resolved.providers()),
        warnings=(f"the trunk was merged from {names} ({_title(method)}); it was not trained as the recipe says",),
        greater_is_better={task: head.greater_is_better for task, head in heads.items()},
    )
    built = BuiltRun(resolved, rows, model, {})
    folder.write_results(card(result, built, adapter_base=""), result.to_json())


def _title(method: MergeMethod) -> str:
    density = f", density {method.density:g}" if method.density < 1 else ""
    return f"{method.name}, scale {method.scale:.4g}{density}"


def _summary(
    runs: Sequence[SavedRun], own: Sequence[dict[str, Scores]], again: Sequence[dict[str, Scores]], method: MergeMethod
) -> MergeSummary:
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
    return MergeSummary(_title(method), tuple(found), delta)
