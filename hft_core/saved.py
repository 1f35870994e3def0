"""A finished run on disk: written in the formats of others, and opened again.

`RUN/model/` holds a folder for each task that a plain library opens (the family's own class for a trunk that was
trained, PEFT for an adapter), and `RUN/model/trunk` where the trunk is not the one that was started from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from hft_core import assemble, provenance, quantisation, recipe_file, results
from hft_core.discovery import one_line
from hft_core.errors import HftError, ModelError, UsageError
from hft_core.head import Head
from hft_core.machine import Machine
from hft_core.model import HybridModel
from hft_core.plugins import Catalogue
from hft_core.recipe import TRUNK_FOLDER
from hft_core.resolve import Resolved, resolve
from hft_core.results import MODEL_FOLDER, RECIPE_FILE, RESULTS_FILE, write_json
from hft_core.turns import in_turn

TASK_FILE, OWN_HEAD_FILE = "task.json", "head.safetensors"


def save_model(folder: Path, model: HybridModel, *, trunk_changed: bool) -> str:
    """Write all tasks into `folder`; return the base model of their adapters, or nothing where they are whole models.

    `trunk_changed`: an earlier stage changed the trunk's own weights, so that they are not those of its source.
    """
    backbone, strategy = model.backbone, model.strategy
    trunk_folder = folder / TRUNK_FOLDER
    if trunk_changed or not strategy.adapter or not backbone.source:
        backbone.save(trunk_folder, strategy.base_state(backbone))
    base = str(trunk_folder.resolve()) if trunk_folder.exists() else backbone.source
    for task in model.heads:
        head = model.head(task)
        if strategy.adapter:
            plain_class = head.family.plain_class if head.family is not None else ""
            strategy.save_adapter(backbone, task, folder / task, base, plain_class, _adapter_head(head, trunk_changed))
            backbone.tokenizer.save_pretrained(folder / task)
        elif head.family is not None:
            state = head.export_state(head.family.plain_state())
            backbone.save_task(folder / task, trunk_folder, head.family, state, head.config())
        if head.family is None:
            (folder / task).mkdir(parents=True, exist_ok=True)
            save_file(_contiguous(_own_state(model, task)), folder / task / OWN_HEAD_FILE)
        write_json(folder / task / TASK_FILE, {"facts": head.facts})
    return base if strategy.adapter else ""


def _adapter_head(head: Head, trunk_changed: bool) -> dict[str, Tensor]:
    """The weights of a head that go with an adapter: all that its modules need; none where the base model has them."""
    if head.family is None or not head.family.plain_state() or (head.part_of_trunk and not trunk_changed):
        return {}
    return head.export_state(head.family.plain_state(tied=True))


def _own_state(model: HybridModel, task: str) -> dict[str, Tensor]:
    """The weights of a head that no plain class knows, by the head's own names."""
    shared = {id(parameter) for parameter in model.trunk.parameters()}
    state = model.heads[task].state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if id(tensor) not in shared}


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in state.items()}


class SavedRun:
    """A finished run, opened for evaluation and prediction."""

    def __init__(self, folder: Path, resolved: Resolved, model: HybridModel, warnings: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.resolved = resolved
        self.model = model
        self.warnings = warnings
        """What is not as it was when the run was made."""
        self.machine: Machine | None = None
        """Where it computes; found at the first prediction, so that the next ones have the same number format."""


@in_turn
def open_run(folder: Path, catalogue: Catalogue, *, trust_remote_code: bool = False, int8: bool = False) -> SavedRun:
    """Open the run in `folder`; with `int8`, linear layers of its trunk compute in int8 on the CPU, and what it says is
    near what it says without.

    Each plugin is the one of the distribution that the run used it from, whatever else has its name.

    Raises `ModelError` when the folder is not a finished run, or its files are damaged, and `PluginError` when a plugin
    of it is not here. Raises `UsageError` where int8 was asked for and cannot be.
    """
    where = quantisation.find_machine() if int8 else None
    recipe_path, model_folder = folder / RECIPE_FILE, folder / MODEL_FOLDER
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such run folder")
    for path, what in ((recipe_path, "recipe"), (folder / RESULTS_FILE, "results"), (model_folder, "model")):
        if not path.exists():
            raise ModelError(f"{folder} is not a finished run: it has no {what} ({path.name})")
    record = results.plugins_of(folder)
    catalogue = catalogue.preferring(provenance.owners(record))
    changed = tuple(f"{folder}: {text}" for text in provenance.differences(record, catalogue))
    try:
        resolved = resolve(recipe_file.load(recipe_path), catalogue)
    except UsageError as error:
        raise type(error)("; ".join([str(error), *changed])) from error
    resolved = _on_saved_trunk(resolved, model_folder / TRUNK_FOLDER, catalogue)
    heads = assemble.build_heads(resolved)
    for task, head in heads.items():
        head.facts = _facts(model_folder / task)
    backbone = assemble.open_backbone(resolved, trust_remote_code=trust_remote_code)
    try:
        model = assemble.attach(backbone, heads)
    except HftError:
        raise
    except Exception as error:  # the facts of a task may be of any shape
        told = f"{model_folder}: the facts of its tasks ({TASK_FILE}) cannot be used: {one_line(error)}"
        raise ModelError(told) from error
    _load_weights(model_folder, resolved, model, changed)
    model.eval()
    opened = SavedRun(folder, resolved, model, changed)
    if where is not None:
        quantisation.quantise(model, merges=resolved.stages[-1].merges)
        opened.machine = where
    return opened


def _load_weights(folder: Path, resolved: Resolved, model: HybridModel, changed: Sequence[str]) -> None:
    """Put in what the last strategies added, and read all tasks' weights; raises `ModelError`, which also says what has
    `changed`."""
    for stage in resolved.last_strategies():
        model.strategy = assemble.strategy_of(stage)
        if model.strategy.adapter:
            model.strategy.apply(model.backbone, stage.stage.tasks)
    for task in model.heads:
        try:
            _load_task(folder / task, model, task)
        except Exception as error:  # a damaged file raises what its library likes
            reason = " ".join(str(error).split())[:300]
            told = "; ".join([f"{folder / task}: its weights cannot be read: {reason}", *changed])
            raise ModelError(told) from error


def _on_saved_trunk(resolved: Resolved, trunk: Path, catalogue: Catalogue) -> Resolved:
    """The same recipe with its backbone opened from the run's own trunk, where the run has one."""
    if not trunk.exists():
        return resolved
    choice = resolved.recipe.backbone
    moved = choice.model_copy(update={"options": {**choice.options, "model": str(trunk.resolve())}})
    return resolve(resolved.recipe.model_copy(update={"backbone": moved}), catalogue)


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = results.read_json(folder / TASK_FILE)["facts"]
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
        wrong = state.keys() ^ _own_state(model, task).keys()
        if wrong:
            raise ValueError(f"head weights are missing or not known: {', '.join(sorted(wrong))}")
        head.load_state_dict(state, strict=False)  # without those that it shares with the trunk
