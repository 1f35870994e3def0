"""Open a run: check its folder, build its model and data, and find the checkpoint to resume from."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator

from hft_core import events
from hft_core.device import failures
from hft_core.device.machine import find_machine
from hft_core.device.place import find_place
from hft_core.device.rank_environment import requested_rank, requested_world_size
from hft_core.errors import UsageError
from hft_core.plugins.catalogue import Catalogue
from hft_core.plugins.observers import Observers
from hft_core.recipe import recipe_file
from hft_core.recipe.batch_size import with_batch_sizes
from hft_core.recipe.budget import with_budgets_of
from hft_core.recipe.resolve import Chosen, Resolved
from hft_core.recipe.trackers import trackers_of
from hft_core.runs import assembly, pinning
from hft_core.runs.assembly import HostData
from hft_core.runs.consistency import check_same_inputs, check_same_start
from hft_core.runs.event_log import RunLog
from hft_core.runs.learned_facts import check_unchanged, facts_of
from hft_core.runs.session import Session
from hft_core.runs.shared_stages import SharedStages
from hft_core.runs.stages import Stages
from hft_core.runs.tracking import Tracking
from hft_core.runs.trials import try_run
from hft_core.runtime import output_probe, run_lock
from hft_core.runtime.run_folder import RunFolder
from hft_core.runtime.run_lock import RunLock
from hft_core.runtime.signals import Interrupted
from hft_core.runtime.system_errors import say_how_to_resume
from hft_core.training.checkpoint import Checkpoint, Checkpoints
from hft_core.training.checkpointing import CheckpointScheduler
from hft_core.training.training_state import RunState


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run is given beside its recipe and its plugins; see `hft_core.run`."""

    output: str | Path | None = None
    data: HostData | None = None
    observers: Sequence[object] = ()
    accelerator: Accelerator | None = None
    trust_remote_code: bool = False
    resume: bool = False
    max_time: float | str | None = None
    accept_changed: bool = False
    shared_stages: Path | None = None
    """Where runs that begin alike leave their first stages for each other; for a single process."""

    @property
    def folder(self) -> RunFolder | None:
        """The folder of a run that is kept."""
        return None if self.output is None else RunFolder(Path(self.output))


def open_session(resolved: Resolved, catalogue: Catalogue, options: RunOptions) -> Session:
    """Open a run that is ready for its first step, or for the one after its last checkpoint.

    Raises `UsageError` (and its kinds).
    """
    started, problems = time.perf_counter(), list[str]()
    resolved = with_batch_sizes(resolved, _processes(options))
    trackers = trackers_of(resolved)
    if trackers and options.folder is None:
        raise UsageError("output.track: a run without an output folder has no place for trackers: give one")
    is_main = requested_rank() == 0  # of several processes, one writes files and calls observers
    folder = options.folder if is_main else None
    if folder is not None:
        output_probe.check_path(folder.path)
        folder.open(resume=options.resume)
    if options.folder is not None and options.resume:
        resolved = _check_same_recipe(resolved, options.folder)
    listeners = _listeners(catalogue, options, resolved, trackers) if is_main else []
    observers = Observers(listeners, problems.append, aside=run_lock.host_random_state)
    lock = RunLock(resolved.recipe.seed)
    with ExitStack() as stack:
        if folder is not None:
            stack.enter_context(folder.locked())
            if not options.resume:
                names = [stage.name for stage in resolved.recipe.stages]
                output_probe.check_names(folder.path, list(resolved.recipe.tasks), names)
        files = options.folder or RunFolder(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        try:
            with lock, failures.propagate_failure(), say_how_to_resume(files.path, files.recipe):
                stages = _build(resolved, options, files, observers, problems)
        except BaseException as error:
            if isinstance(error, Interrupted) and folder is not None and not folder.recipe.exists():
                folder.write_recipe(recipe_file.dump(resolved.recipe))  # `hft resume` reads it
            observers.emit("run_failed", events.RunFailed(stage="", error=error))
            raise
        return Session(stages, lock, options.folder, started=started, problems=problems, resources=stack.pop_all())


def _processes(options: RunOptions) -> int:
    return requested_world_size() if options.accelerator is None else options.accelerator.num_processes


def _check_same_recipe(resolved: Resolved, folder: RunFolder) -> Resolved:
    """Return the recipe with what the run to resume chose: the number format for `precision: auto`, and how long the
    stages train.

    Raises `UsageError` when the run has another recipe.
    """
    recorded = folder.recorded_recipe()
    if recorded is None:
        return resolved
    resolved = with_budgets_of(resolved, recipe_file.load(recipe_file.parse(recorded, str(folder.recipe))))
    formats = ("auto", "fp32", "bf16") if resolved.recipe.precision == "auto" else (resolved.recipe.precision,)
    for name in formats:
        candidate = _with_precision(resolved, name)
        if recipe_file.dump(candidate.recipe) == recorded:
            return candidate
    raise UsageError(
        f"the run in '{folder.path}' has another recipe than the one given: resume it with "
        f"'hft resume {folder.path}', or give a new output folder"
    )


def _with_precision(resolved: Resolved, name: str) -> Resolved:
    return replace(resolved, recipe=resolved.recipe.model_copy(update={"precision": name}))


def _listeners(
    catalogue: Catalogue, options: RunOptions, resolved: Resolved, trackers: Sequence[Chosen]
) -> list[tuple[str, object]]:
    """Return installed observers, the host's, and log and trackers of a run that is kept, with their labels."""
    listeners = [*catalogue.observers, *((type(observer).__name__, observer) for observer in options.observers)]
    if options.folder is not None:
        place, every = options.folder.tracking, resolved.recipe.output.logging_steps
        listeners.append(("log", RunLog(options.folder.log, every)))
        listeners += [(tracker.entry.name, Tracking(tracker, place, every)) for tracker in trackers]
    return listeners


def _build(
    resolved: Resolved, options: RunOptions, files: RunFolder, observers: Observers, problems: list[str]
) -> Stages:
    """Build the run up to its first step, or to the checkpoint it is resumed from; all processes call it."""
    resume_from = _find_checkpoint(resolved, options, problems)
    chosen = None if resume_from is None else resume_from.state.run.precision
    machine = find_machine(resolved.recipe.precision, options.accelerator, chosen=chosen)
    wanted, resolved = resolved.recipe.precision, _with_precision(resolved, machine.precision.name)
    if machine.sharded:
        assembly.check_divisible(resolved)
    built = assembly.assemble(resolved, host_data=options.data or {}, trust_remote_code=options.trust_remote_code)
    findings, machine = try_run(built, machine, wanted=wanted)
    problems.extend(findings.warnings)
    resolved = _with_precision(built.resolved, machine.precision.name)
    built = replace(built, resolved=resolved)
    pins, facts, place, notes = pinning.pin(built), facts_of(built.heads), find_place(machine), list[str]()
    check_same_start(machine.group, pins, facts, resume_from, options.folder)
    if resume_from is not None and options.folder is not None:
        check_unchanged(resume_from.state.run.facts, facts)
        pins, notes = check_same_inputs(resume_from, pins, place, options.folder, accept=options.accept_changed)
    problems += [warning for warning in built.warnings if warning not in problems]
    shared = None if options.shared_stages is None else SharedStages(options.shared_stages)
    stages = Stages(built, machine, observers, files, pins=pins, shared=shared)
    if options.folder is not None and requested_rank() == 0:
        files.write_recipe(recipe_file.dump(resolved.recipe))
        problems[:] = dict.fromkeys([*notes, *problems])
        state = RunState(precision=machine.precision, pins=pins, place=place, facts=facts, notes=list(problems))
        stages.scheduler = CheckpointScheduler(files, resolved.recipe.output, _checkpoints(resolved, files), state)
    observers.emit(
        "run_started",
        events.RunStarted(
            recipe=resolved.recipe,
            folder=None if options.folder is None else options.folder.path,
            device=str(machine.device),
            precision=machine.precision.name,
            precision_reason=machine.precision.reason,
        ),
    )
    stages.begin(resume_from)
    return stages


def _checkpoints(resolved: Resolved, folder: RunFolder) -> Checkpoints:
    return Checkpoints(
        folder.checkpoints, recipe=pinning.recipe_digest(resolved), limit=resolved.recipe.output.save_total_limit
    )


def _find_checkpoint(resolved: Resolved, options: RunOptions, problems: list[str]) -> Checkpoint | None:
    """Find the checkpoint to resume from, and remove what a stopped run wrote beside or after it."""
    if options.folder is None:
        return None
    checkpoints = _checkpoints(resolved, options.folder)
    resume_from = checkpoints.newest(problems.append) if options.resume else None
    if requested_rank() == 0:
        checkpoints.clear_leftovers()
        options.folder.remove_temporary_files()
        options.folder.truncate_log(0 if resume_from is None else resume_from.state.log_size)
    return resume_from
