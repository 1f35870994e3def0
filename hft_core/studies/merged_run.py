"""Open the runs that are merged, and write the merged one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hft_core.errors import UsageError
from hft_core.model.hybrid import HybridModel
from hft_core.predict import prediction
from hft_core.predict.saved_run import SavedRun
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import Resolved, resolve
from hft_core.results import RunResult, Scores
from hft_core.runs import assembly, model_folders, pinning
from hft_core.runs.assembly import BuiltRun
from hft_core.runs.model_card import card
from hft_core.runs.model_folders import own_state
from hft_core.runtime.files import follow_umask
from hft_core.runtime.run_folder import RunFolder
from hft_core.studies.arms import with_fixed_splits

if TYPE_CHECKING:
    from hft_core.plugins.catalogue import Catalogue


def check_base(folders: Sequence[Path], weights: str) -> None:
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


def scores_of(run: SavedRun) -> dict[str, Scores]:
    """Return the scores of a run on its own dev and test rows, by split and task."""
    measured = prediction.evaluate_recipe_data(run, list(run.model.heads))
    return {split: part.scores for split, part in measured.items()}


def fold(run: SavedRun) -> None:
    """Fold what the last strategy of a run added into its trunk. Raises `UsageError` where that cannot be."""
    stage = run.resolved.stages[-1]
    if run.model.strategy.adapter:
        if not stage.merges:
            name = stage.strategy.entry.name if stage.strategy is not None else ""
            raise UsageError(f"{run.folder}: what strategy '{name}' added cannot be folded into the trunk")
        run.model.fold_strategy()
    run.plan = None


def names_of(runs: Sequence[SavedRun]) -> str:
    """Return the names of the runs' folders, for messages."""
    return ", ".join(run.folder.resolve().name for run in runs)


def union(recorded: Sequence[Resolved], catalogue: Catalogue) -> Resolved:
    """Return a recipe with the tasks of all runs, each with the rows that its run had in each split; its one stage is
    for the whole trunk."""
    parts = [with_fixed_splits(each.recipe).model_dump(mode="json") for each in recorded]
    data = parts[0]
    for other in parts[1:]:
        data["tasks"] |= other["tasks"]
    data["stages"] = [{"name": "merged", "tasks": list(data["tasks"]), "strategy": "full"}]
    data["output"] = {}
    return resolve(recipe_file.from_dict(data, "merged recipe"), catalogue)


def merged_model(
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


def write(
    folder: RunFolder,
    resolved: Resolved,
    model: HybridModel,
    runs: Sequence[SavedRun],
    scores: Sequence[dict[str, Scores]],
    how: str,
    started: float,
) -> None:
    """Write the run folder of a merged model; `how`: from what, and by which method."""
    rows: dict[str, Any] = {}
    for run in runs:
        rows |= assembly.load_rows(run.resolved, {task: run.model.head(task) for task in run.model.heads}, {})
    folder.open(resume=False)
    folder.write_recipe(recipe_file.dump(resolved.recipe))
    limits = assembly.max_lengths(resolved, model.heads, model)
    model_folders.save_model(folder.model, model, trunk_changed=True, max_lengths=limits)
    follow_umask(folder.model)
    machine = runs[0].machine
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
        warnings=(f"the trunk was merged from {how}; it was not trained as the recipe says",),
        greater_is_better={task: head.greater_is_better for task, head in heads.items()},
    )
    built = BuiltRun(resolved, rows, model, {})
    folder.write_results(card(result, built, adapter_base=""), result.to_json())
