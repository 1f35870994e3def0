"""Open a finished run for evaluation and prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from hft_core.device.machine import Machine
from hft_core.device.precision import REQUESTED
from hft_core.errors import HftError, ModelError, UsageError
from hft_core.file_guard import folder_problem
from hft_core.model.execution_plan import ExecutionPlan
from hft_core.model.hybrid import HybridModel
from hft_core.plugins import provenance
from hft_core.plugins.catalogue import Catalogue
from hft_core.plugins.entries import one_line
from hft_core.predict import merging
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import Resolved, resolve
from hft_core.recipe.schema import TRUNK_FOLDER
from hft_core.runs import assembly, pinning
from hft_core.runs.model_folders import OWN_HEAD_FILE, TASK_FILE, own_state
from hft_core.runtime import output_probe, run_manifest
from hft_core.runtime.files import read_json
from hft_core.runtime.run_folder import RunFolder
from hft_core.runtime.run_lock import exclusive

SMALL_FILE = 1 << 18
"""Bytes of a file that is read whole when its run is opened."""


class SavedRun:
    """A finished run, opened for evaluation and prediction."""

    def __init__(self, folder: Path, resolved: Resolved, model: HybridModel, warnings: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.resolved = resolved
        self.model = model
        self.warnings = warnings
        """Differences between the installed plugins and those that the run was trained with."""
        self.machine: Machine | None = None
        """Where it computes; found at the first prediction, so that the next ones have the same number format."""
        self.plan: ExecutionPlan | None = None
        """How it computes several tasks at once; decided at the first prediction of several."""


@exclusive
def open_run(
    folder: str | Path,
    catalogue: Catalogue,
    *,
    trust_remote_code: bool = False,
    merge: bool = False,
) -> SavedRun:
    """Open the run in `folder`.

    `merge`: merge its adapter into the trunk, where it has one that can be merged and a few texts have the same outputs
    to 1e-5; predictions take less time then.

    Plugins are taken from the distributions that the run used, even where others have the same names.

    Raises `ModelError` when the folder is not a finished run, or its files are damaged, and `PluginError` when one
    of its plugins is not installed.
    """
    opened = _opened(folder, catalogue, trust_remote_code=trust_remote_code)
    if merge and merging.merges(opened.resolved, opened.model) and not merging.merge(opened.model):
        return _opened(folder, catalogue, trust_remote_code=trust_remote_code)
    return opened


def _opened(folder: str | Path, catalogue: Catalogue, *, trust_remote_code: bool) -> SavedRun:
    """Open the run as it was saved."""
    folder = Path(folder)
    run = RunFolder(folder)
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such run folder")
    for path, what in ((run.recipe, "recipe"), (run.results, "results"), (run.model, "model")):
        if not path.exists():
            raise ModelError(f"{folder} is not a finished run: it has no {what} ({path.name})")
    output_probe.check_path(folder)
    problem = folder_problem(folder)
    if problem:
        raise ModelError(problem)
    record = run.plugins()
    catalogue = catalogue.preferring(provenance.owners(record))
    changed = tuple(f"{folder}: {text}" for text in provenance.differences(record, catalogue))
    try:
        resolved = resolve(recipe_file.load(run.recipe), catalogue)
    except UsageError as error:
        raise type(error)("; ".join([str(error), *changed])) from error
    resolved = _with_precision(resolved, run)
    recorded = resolved
    resolved = _on_saved_trunk(resolved, run.model / TRUNK_FOLDER, catalogue)
    heads = assembly.build_heads(resolved)
    for task, head in heads.items():
        head.restore(_facts(run.model / task))
    backbone = assembly.open_backbone(resolved, trust_remote_code=trust_remote_code)
    try:
        model = assembly.attach(backbone, heads)
    except HftError:
        raise
    except Exception as error:  # the facts of a task may be of any shape
        message = f"{run.model}: the facts of its tasks ({TASK_FILE}) cannot be used: {one_line(error)}"
        raise ModelError(message) from error
    changed += _changed_inputs(run, resolved, model, own_trunk=resolved is not recorded)
    _load_weights(run.model, resolved, model, changed)
    model.eval()
    return SavedRun(folder, resolved, model, (*changed, *_edited_files(run)))


def _edited_files(run: RunFolder) -> tuple[str, ...]:
    """Return a warning where files of the saved model are not as they were written: their sizes, and what is in the
    small ones, such as the names of labels."""
    try:
        listed = run_manifest.read(run.manifest)
    except (OSError, ValueError):  # an older run, or one that was put together by hand
        return ()
    below = f"{run.model.name}/"
    edited = [name for name, facts in listed.items() if name.startswith(below) and _is_edited(run.path / name, facts)]
    if not edited:
        return ()
    more = f" and {len(edited) - 1} more" if len(edited) > 1 else ""
    return (f"{run.path}: {edited[0]}{more} is not as it was written; 'hft check {run.path}' says more",)


def _is_edited(path: Path, facts: Mapping[str, Any]) -> bool:
    try:
        size = path.stat().st_size
        return size != facts["size"] or (size <= SMALL_FILE and run_manifest.facts_of(path) != dict(facts))
    except OSError:
        return True


def _changed_inputs(run: RunFolder, resolved: Resolved, model: HybridModel, *, own_trunk: bool) -> tuple[str, ...]:
    """Return a warning where base model or code are not those that the run was trained with; `own_trunk`: the base
    model is in the run's own folder. Raises `ModelError` when its results are damaged."""
    recorded = run.pins()
    if recorded is None:  # of an hft that did not pin
        return ()
    heads = {task: model.head(task) for task in model.heads}
    changed = recorded.opened_with(pinning.pin_opened(resolved, model.backbone, heads), own_base=own_trunk)
    if not changed:
        return ()
    return (f"{run.path}: not as when it was trained, so that its predictions may differ: {'; '.join(changed)}",)


def _load_weights(folder: Path, resolved: Resolved, model: HybridModel, changed: Sequence[str]) -> None:
    """Apply the last strategies and load all weights. Raises `ModelError`, which also lists what has `changed`."""
    for stage in resolved.last_strategies():
        strategy = assembly.strategy_of(stage)
        if strategy.adapter:
            model.apply_strategy(strategy, stage.stage.tasks)
        else:
            model.strategy = strategy
    for task in model.heads:
        try:
            _load_task(folder / task, model, task)
        except Exception as error:  # safetensors raises several types of exceptions for corrupt files
            reason = " ".join(str(error).split())[:300]
            message = "; ".join([f"{folder / task}: its weights cannot be read: {reason}", *changed])
            raise ModelError(message) from error


def _with_precision(resolved: Resolved, run: RunFolder) -> Resolved:
    """Return the recipe with `precision: auto` where the run measured that bfloat16 is faster: here it may not be."""
    if resolved.recipe.precision != "bf16" or read_json(run.results).get("precision_reason") == REQUESTED:
        return resolved
    return replace(resolved, recipe=resolved.recipe.model_copy(update={"precision": "auto"}))


def _on_saved_trunk(resolved: Resolved, trunk: Path, catalogue: Catalogue) -> Resolved:
    """Return the recipe with its backbone opened from the run's own trunk, where the run has one."""
    if not trunk.exists():
        return resolved
    choice = resolved.recipe.backbone
    moved = choice.model_copy(update={"options": {**choice.options, "model": str(trunk.resolve())}})
    return resolve(resolved.recipe.model_copy(update={"backbone": moved}), catalogue)


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = read_json(folder / TASK_FILE)["facts"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / TASK_FILE} cannot be read: {error}") from error
    return facts


def _load_task(folder: Path, model: HybridModel, task: str) -> None:
    head, backbone, strategy = model.head(task), model.backbone, model.strategy
    family = head.family
    if strategy.adapter:
        names = head.export_state(family.plain_state(tied=True)) if family is not None else {}
        state = strategy.load_adapter(backbone, task, folder, names)
        if family is not None and (state or not head.part_of_trunk):
            family.load_plain_state(head.import_state(state))
    elif family is not None:
        family.load_plain_state(head.import_state(backbone.load_task(folder)))
    if family is None:
        state = load_file(folder / OWN_HEAD_FILE)
        wrong = state.keys() ^ own_state(model, task).keys()
        if wrong:
            raise ValueError(f"head weights are missing or not known: {', '.join(sorted(wrong))}")
        head.load_state_dict(state, strict=False)  # without those that it shares with the trunk
