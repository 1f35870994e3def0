"""A run: a recipe's stages one after another, and what they found. `run` is the call for embedding hft elsewhere."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from hft_core import assemble, events, machine, recipe_file, results, saved
from hft_core.assemble import HostData, Material
from hft_core.card import card
from hft_core.checkpoint import Checkpoint
from hft_core.errors import DataError, UsageError
from hft_core.keeper import Keeper, rewind_log
from hft_core.lock import locked
from hft_core.machine import Machine
from hft_core.observers import Observers
from hft_core.plugins import Catalogue
from hft_core.precision import Precision
from hft_core.recipe import Recipe
from hft_core.resolve import Resolved, resolve
from hft_core.results import RunResult, StageResult
from hft_core.runlog import RunLog
from hft_core.stages import Stages

VERSIONS_OF = ("hft-core", "torch", "transformers", "peft", "accelerate", "torchjd", "datasets", "safetensors")


def run(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    output: str | Path | None = None,
    catalogue: Catalogue | None = None,
    data: HostData | None = None,
    observers: Sequence[object] = (),
    accelerator: Accelerator | None = None,
    trust_remote_code: bool = False,
    resume: bool = False,
) -> RunResult:
    """Run a recipe: a `Recipe`, what YAML would hold, or the path of a YAML file.

    `output`: the folder to write, which must not hold a run; without one nothing is kept on disk. `catalogue`: the
    plugins that may be used, those installed when left out. `data`: rows by task, for tasks that name no files.
    `observers`: objects with methods marked `hookimpl`. `resume`: where `output` holds the same run, unfinished, go on
    from its last checkpoint. Nothing is printed, and torch's random state is left as it was.

    Raises `UsageError` (and its kinds) for what is wrong before training, `RunError` for what fails later.
    """
    catalogue = catalogue or Catalogue.discover()
    return run_resolved(
        resolve(_as_recipe(recipe), catalogue),
        catalogue,
        output=output,
        data=data,
        observers=observers,
        accelerator=accelerator,
        trust_remote_code=trust_remote_code,
        resume=resume,
    )


def run_resolved(
    resolved: Resolved,
    catalogue: Catalogue,
    *,
    output: str | Path | None = None,
    data: HostData | None = None,
    observers: Sequence[object] = (),
    accelerator: Accelerator | None = None,
    trust_remote_code: bool = False,
    resume: bool = False,
) -> RunResult:
    """As `run`, for a recipe whose plugins have been looked up."""
    folder = None if output is None else _run_folder(Path(output), resolved, resume=resume)
    problems: list[str] = []
    told = Observers(_listeners(catalogue, observers, folder, resolved), problems.append)
    place: AbstractContextManager[Any] = nullcontext(folder) if folder else tempfile.TemporaryDirectory()
    with torch.random.fork_rng(), place as working_folder, locked(folder) if folder else nullcontext():
        torch.manual_seed(resolved.recipe.seed)
        stages: Stages | None = None
        try:
            started = time.perf_counter()
            keeper, at = _kept(folder, resolved, problems.append, resume=resume)
            where = machine.find(resolved.recipe.precision, accelerator) if at is None else _same(at, accelerator)
            material = assemble.assemble(resolved, host_data=data or {}, trust_remote_code=trust_remote_code)
            stages = Stages(material, where, told, Path(working_folder), keeper=keeper)
            if keeper is not None and folder is not None:
                results.write_text(folder / results.RECIPE_FILE, recipe_file.dump(resolved.recipe))
                keeper.run = {"precision": asdict(where.precision), "data": _same_data(material, at)}
            _announce(resolved, folder, where, told)
            done = stages.all(at)
            result = _result(stages, done, folder, time.perf_counter() - started, problems)
            if folder is not None:
                _write(result, stages, folder)
        except BaseException as error:
            told.emit("run_failed", events.RunFailed(stage=stages.name if stages else "", error=error))
            raise
        told.emit("run_finished", events.RunFinished(result=result))
        return result


def _kept(
    folder: Path | None, resolved: Resolved, report: Callable[[str], None], *, resume: bool
) -> tuple[Keeper | None, Checkpoint | None]:
    """What saves the run's state in `folder`, and the state to go on from, if there is one."""
    if folder is None:
        return None, None
    recipe = hashlib.sha256(recipe_file.dump(resolved.recipe).encode()).hexdigest()
    keeper = Keeper(folder, resolved.recipe.output, recipe=recipe)
    keeper.checkpoints.clear_leftovers()
    at = keeper.checkpoints.newest(report) if resume else None
    if resume:
        rewind_log(folder, at)
    return keeper, at


def _same(at: Checkpoint, accelerator: Accelerator | None) -> Machine:
    """The machine with the number format that was measured when the run began."""
    found = machine.find(at.state["precision"]["name"], accelerator)
    return Machine(found.accelerator, Precision(**at.state["precision"]))


def _same_data(material: Material, at: Checkpoint | None) -> dict[str, Any]:
    """Numbers that stand for the tokenised rows. Raises `DataError` when they are not those of the checkpoint."""
    found = {
        split: {task: examples.fingerprint() for task, examples in tasks.items()}
        for split, tasks in material.examples.items()
    }
    for split, tasks in (at.state["data"] if at is not None else {}).items():
        for task, number in tasks.items():
            if found[split].get(task) != number:
                raise DataError(
                    f"task '{task}', {split}: the rows are not those that the run began with; resume it with the same "
                    "data, or start a new run"
                )
    return found


def _listeners(
    catalogue: Catalogue, observers: Sequence[object], folder: Path | None, resolved: Resolved
) -> list[tuple[str, object]]:
    """Installed observers, the host's, and the log of a run that is kept."""
    found = [*catalogue.observers, *((type(observer).__name__, observer) for observer in observers)]
    if folder is not None:
        found.append(("log", RunLog(folder, resolved.recipe.output.logging_steps)))
    return found


def _as_recipe(recipe: Recipe | Mapping[str, Any] | str | Path) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return recipe_file.from_dict(recipe)
    return recipe_file.load(recipe)


def _run_folder(folder: Path, resolved: Resolved, *, resume: bool) -> Path:
    """The folder to write, made. Raises `UsageError` when it cannot be made or holds a run; with `resume`, when that
    run is finished, or another one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"output folder '{folder}' cannot be made: {error.strerror}") from error
    recipe = folder / results.RECIPE_FILE
    if not resume or not recipe.exists():
        results.check_unused(folder)
        return folder
    if (folder / results.RESULTS_FILE).exists():
        raise UsageError(f"the run in '{folder}' is finished: there is nothing to resume")
    if recipe.read_text(encoding="utf-8") != recipe_file.dump(resolved.recipe):
        raise UsageError(
            f"the run in '{folder}' has another recipe than the one given: resume it with 'hft resume {folder}', or "
            "give a new output folder"
        )
    return folder


def _announce(resolved: Resolved, folder: Path | None, where: Machine, told: Observers) -> None:
    told.emit(
        "run_started",
        events.RunStarted(
            recipe=resolved.recipe,
            folder=folder,
            device=str(where.device),
            precision=where.precision.name,
            precision_reason=where.precision.reason,
        ),
    )


def _result(
    stages: Stages, done: Sequence[StageResult], folder: Path | None, seconds: float, problems: Sequence[str]
) -> RunResult:
    """The scores of all tasks on all splits, with what the stages found."""
    material, where = stages.material, stages.machine
    stages.measure(material.heads)
    test = stages.score("test", tuple(material.heads), done[-1].best_step)
    warnings = [f"stage '{stage.name}': {warning}" for stage in done for warning in stage.warnings]
    return RunResult(
        folder=folder,
        final={"dev": stages.scores, "test": test},
        main_metrics={task: head.main_metric for task, head in material.heads.items()},
        base_lm_loss={
            task: {"before": first["loss"], "after": stages.scores[task]["loss"]}
            for task, first in done[0].before.items()
            if not material.heads[task].supervised and task in stages.scores
        },
        stages=tuple(done),
        seconds=seconds,
        device=str(where.device),
        precision=where.precision.name,
        precision_reason=where.precision.reason,
        versions={name: metadata.version(name) for name in VERSIONS_OF if _installed(name)},
        plugins=tuple(material.resolved.providers()),
        warnings=(*warnings, *problems),
    )


def _write(result: RunResult, stages: Stages, folder: Path) -> None:
    """Everything that a finished run leaves behind; `results.json` comes last, and says that the rest is whole."""
    model_folder, model = folder / results.MODEL_FOLDER, stages.material.model
    base = saved.save_model(model_folder, model, trunk_changed=stages.trunk_changed)
    results.write_text(folder / results.CARD_FILE, card(result, stages.material, adapter_base=base))
    results.write_json(folder / results.RESULTS_FILE, result.to_json())
    shutil.rmtree(folder / results.CHECKPOINT_FOLDER, ignore_errors=True)


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
