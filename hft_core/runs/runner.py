"""Running a recipe: `run` and `session` are the calls for embedding hft elsewhere, all at once and stage by stage."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypedDict, Unpack

from accelerate import Accelerator

from hft_core import events
from hft_core.device import distributed, failures
from hft_core.device.distributed import Machine
from hft_core.device.launcher import requested_rank
from hft_core.errors import DataError
from hft_core.plugins.catalogue import Catalogue
from hft_core.plugins.observers import Observers
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import Resolved, resolve
from hft_core.recipe.schema import Recipe
from hft_core.results import RunResult
from hft_core.runs import assembly
from hft_core.runs.assembly import HostData, Material
from hft_core.runs.consistency import check_same_start
from hft_core.runs.event_log import RunLog
from hft_core.runs.session import Session
from hft_core.runs.stages import Stages
from hft_core.runtime import run_lock
from hft_core.runtime.run_folder import RunFolder
from hft_core.runtime.run_lock import RunLock
from hft_core.runtime.signals import Interrupted
from hft_core.training.checkpoint import Checkpoint, Checkpoints
from hft_core.training.checkpointing import CheckpointScheduler
from hft_core.training.training_state import RunState


class Settings(TypedDict, total=False):
    """What `run` takes beside the recipe and the catalogue."""

    output: str | Path | None
    data: HostData | None
    observers: Sequence[object]
    accelerator: Accelerator | None
    trust_remote_code: bool
    resume: bool


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
    from its last checkpoint. Nothing is printed, and the generators of Python, numpy and torch are left as they were.
    Of two runs in two threads, one computes at a time (see `hft_core.runtime.run_lock`).

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


def run_resolved(resolved: Resolved, catalogue: Catalogue, **settings: Unpack[Settings]) -> RunResult:
    """As `run`, for a recipe whose plugins have been looked up."""
    with opened(resolved, catalogue, **settings) as found:
        while found.left:
            found.run_stage()
        return found.finish()


def session(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    output: str | Path | None = None,
    catalogue: Catalogue | None = None,
    data: HostData | None = None,
    observers: Sequence[object] = (),
    accelerator: Accelerator | None = None,
    trust_remote_code: bool = False,
    resume: bool = False,
) -> Session:
    """As `run`, for a host that starts the stages itself and looks at the model in between::

        with hft_core.session(recipe, data=rows) as session:
            while session.left:
                print(session.run_stage().after)
            result = session.finish()

    Closed before `finish`, the run is unfinished: with `output`, another session may go on from its last checkpoint.
    """
    catalogue = catalogue or Catalogue.discover()
    return opened(
        resolve(_as_recipe(recipe), catalogue),
        catalogue,
        output=output,
        data=data,
        observers=observers,
        accelerator=accelerator,
        trust_remote_code=trust_remote_code,
        resume=resume,
    )


def opened(resolved: Resolved, catalogue: Catalogue, **settings: Unpack[Settings]) -> Session:
    """A run that is ready for its first step, or for the one after its last checkpoint."""
    output, resume, accelerator = settings.get("output"), settings.get("resume", False), settings.get("accelerator")
    leads = requested_rank() == 0  # of several processes, one writes and reports
    folder = None if output is None else Path(output)
    if folder is not None and leads:
        RunFolder(folder).open_for(recipe_file.dump(resolved.recipe), resume=resume)
    problems: list[str] = []
    listeners = _listeners(catalogue, settings.get("observers", ()), folder, resolved) if leads else []
    told = Observers(listeners, problems.append, aside=run_lock.host_random_state)
    turn, started = RunLock(resolved.recipe.seed), time.perf_counter()
    with ExitStack() as held:
        working_folder = folder or Path(held.enter_context(tempfile.TemporaryDirectory()))
        if folder is not None and leads:
            held.enter_context(RunFolder(folder).locked())
        try:
            with turn, failures.propagate_failure():
                checkpoints, resume_from = _open_checkpoints(
                    folder, resolved, problems.append, resume=resume, leads=leads
                )
                measured = None if resume_from is None else resume_from.state.run.precision
                where = distributed.find(resolved.recipe.precision, accelerator, chosen=measured)
                if where.sharded:
                    assembly.check_divisible(resolved)
                material = assembly.assemble(
                    resolved,
                    host_data=settings.get("data") or {},
                    trust_remote_code=settings.get("trust_remote_code", False),
                )
                check_same_start(where.group, material, resume_from, folder)
                stages = Stages(material, where, told, working_folder)
                if checkpoints is not None and folder is not None and leads:
                    RunFolder(folder).write_recipe(recipe_file.dump(resolved.recipe))
                    problems[:] = notes = [*_noted(resume_from, where), *problems]
                    state = RunState(
                        precision=where.precision,
                        processes=where.name,
                        fingerprints=_same_data(material, resume_from),
                        notes=notes,
                    )
                    stages.scheduler = CheckpointScheduler(
                        RunFolder(folder), resolved.recipe.output, checkpoints, state
                    )
                _announce(resolved, folder, where, told)
                stages.begin(resume_from)
        except BaseException as error:
            if isinstance(error, Interrupted) and folder is not None and leads:  # `hft resume` asks for it
                RunFolder(folder).write_recipe(recipe_file.dump(resolved.recipe))
            told.emit("run_failed", events.RunFailed(stage="", error=error))
            raise
        return Session(stages, turn, folder, started=started, problems=problems, held=held.pop_all())


def _open_checkpoints(
    folder: Path | None, resolved: Resolved, report: Callable[[str], None], *, resume: bool, leads: bool
) -> tuple[Checkpoints | None, Checkpoint | None]:
    """Open the run's checkpoints in `folder`, and find the one to resume from, if there is any."""
    if folder is None:
        return None, None
    recipe = hashlib.sha256(recipe_file.dump(resolved.recipe).encode()).hexdigest()
    limit = resolved.recipe.output.save_total_limit
    checkpoints = Checkpoints(RunFolder(folder).checkpoints, recipe=recipe, limit=limit)
    resume_from = checkpoints.newest(report) if resume else None
    if leads:
        checkpoints.clear_leftovers()
        RunFolder(folder).remove_temporary_files()
    if leads and resume:
        RunFolder(folder).truncate_log(0 if resume_from is None else resume_from.state.log_size)
    return checkpoints, resume_from


def _noted(resume_from: Checkpoint | None, where: Machine) -> list[str]:
    """What the results have to say of the places that the run was computed in: up to the checkpoint, and from there."""
    if resume_from is None:
        return []
    before = resume_from.state.run
    notes = list(before.notes)
    if before.processes != where.name:
        notes.append(
            f"the run was computed by {before.processes} and goes on, after step {resume_from.step} of its stage, with "
            f"{where.name}: its results are those of a run never stopped up to rounding, not bit for bit, and dropout "
            "is drawn anew"
        )
    return notes


def _same_data(material: Material, resume_from: Checkpoint | None) -> dict[str, dict[str, int]]:
    """Numbers that stand for the tokenised rows. Raises `DataError` when they are not those of the checkpoint."""
    found = {
        split: {task: examples.fingerprint() for task, examples in tasks.items()}
        for split, tasks in material.examples.items()
    }
    for split, tasks in (resume_from.state.run.fingerprints if resume_from is not None else {}).items():
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
