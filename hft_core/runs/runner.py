"""Run a recipe: `run` and `session` are the calls for embedding hft elsewhere, all at once and stage by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from hft_core.errors import UsageError
from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import Resolved, resolve
from hft_core.recipe.schema import Recipe
from hft_core.results import RunResult
from hft_core.runs.assembly import HostData
from hft_core.runs.opening import RunOptions, open_session
from hft_core.runs.session import Session
from hft_core.runtime import time_limit
from hft_core.runtime.run_folder import RunFolder


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
    max_time: float | str | None = None,
    accept_changed: bool = False,
) -> RunResult:
    """Run a recipe: a `Recipe`, what YAML would hold, or the path of a YAML file.

    `output`: the folder to write, which must not hold a run; without one nothing is kept on disk. `catalogue`: the
    plugins that may be used, those installed when left out. `data`: rows by task, for tasks that name no files.
    `observers`: objects with methods marked `hookimpl`. `resume`: where `output` holds the same run, unfinished, resume
    it from its last checkpoint. `max_time`: seconds, or text such as `2h30m`, after which the run saves a checkpoint
    and stops with an `HftError` whose `exit_code` is 124. `accept_changed`: resume it also with other inputs (base
    weights, rows, plugin files, …) than those it began with; the results name them. Nothing is printed, and the
    generators of Python, numpy and torch are left as they were. Of two runs in two threads, one computes at a time (see
    `hft_core.runtime.run_lock`).

    Raises `UsageError` (and its kinds) for what is wrong before training, `RunError` for what fails later.
    """
    catalogue = catalogue or Catalogue.discover()
    options = RunOptions(
        output=output,
        data=data,
        observers=observers,
        accelerator=accelerator,
        trust_remote_code=trust_remote_code,
        resume=resume,
        max_time=max_time,
        accept_changed=accept_changed,
    )
    return run_resolved(resolve(_as_recipe(recipe), catalogue), catalogue, options)


def resume(
    folder: str | Path,
    *,
    catalogue: Catalogue | None = None,
    data: HostData | None = None,
    observers: Sequence[object] = (),
    accelerator: Accelerator | None = None,
    trust_remote_code: bool = False,
    max_time: float | str | None = None,
    accept_changed: bool = False,
) -> RunResult:
    """Resume the unfinished run in `folder` from its last checkpoint, by the recipe that it began with.

    Parameters as of `run`; rows that a host passed to the run have to be passed again. Raises `UsageError` for a folder
    without a run that had begun, and for a run that is finished, and otherwise what `run` raises.
    """
    recipe = RunFolder(Path(folder)).recipe
    if not recipe.exists():
        raise UsageError(f"'{folder}' holds no run that had begun: it has no {recipe.name}")
    return run(
        recipe,
        output=folder,
        catalogue=catalogue,
        data=data,
        observers=observers,
        accelerator=accelerator,
        trust_remote_code=trust_remote_code,
        resume=True,
        max_time=max_time,
        accept_changed=accept_changed,
    )


def run_resolved(resolved: Resolved, catalogue: Catalogue, options: RunOptions) -> RunResult:
    """Run a recipe whose plugins have been looked up, as `run` does."""
    seconds = time_limit.seconds_of(options.max_time, "max_time")
    with time_limit.time_limit(seconds), open_session(resolved, catalogue, options) as session:
        while session.left:
            session.run_stage()
        return session.finish()


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
    accept_changed: bool = False,
) -> Session:
    """Open a run whose stages the host starts itself, to look at the model in between; parameters as of `run`::

        with hft_core.session(recipe, data=rows) as session:
            while session.left:
                print(session.run_stage().after)
            result = session.finish()

    Closed before `finish`, the run is unfinished: with `output`, another session may resume it from its last
    checkpoint.
    """
    catalogue = catalogue or Catalogue.discover()
    options = RunOptions(
        output=output,
        data=data,
        observers=observers,
        accelerator=accelerator,
        trust_remote_code=trust_remote_code,
        resume=resume,
        accept_changed=accept_changed,
    )
    return open_session(resolve(_as_recipe(recipe), catalogue), catalogue, options)


def _as_recipe(recipe: Recipe | Mapping[str, Any] | str | Path) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return recipe_file.from_dict(recipe)
    return recipe_file.load(recipe)
