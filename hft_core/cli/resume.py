"""`hft resume`: resume an interrupted run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hft_core.cli import launch
from hft_core.cli.run import (
    CacheSizeOption,
    FsdpOption,
    JsonOption,
    MaxTimeOption,
    ProcessesOption,
    TrustOption,
    limit_cache,
    report,
    run_source,
)
from hft_core.errors import UsageError
from hft_core.runtime import time_limit


def resume(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of the run.")],
    processes: ProcessesOption = 1,
    fsdp: FsdpOption = False,
    accept_changed: Annotated[
        bool,
        typer.Option("--accept-changed", help="Also with other weights, rows or plugins than it began with."),
    ] = False,
    trust_remote_code: TrustOption = False,
    cache_size: CacheSizeOption = None,
    max_time: MaxTimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Resume an interrupted run from its last checkpoint."""
    from hft_core.runtime.run_folder import RECIPE_FILE

    limit_cache(cache_size)
    seconds = time_limit.seconds_of(max_time, "--max-time")
    if fsdp:
        launch.request_fsdp(processes)
    recipe = folder / RECIPE_FILE
    if not recipe.exists():
        raise UsageError(f"'{folder}' holds no run that had begun: it has no {RECIPE_FILE}")
    if processes > 1 and not launch.launched():
        raise typer.Exit(launch.run(processes, ctx.obj.arguments))
    from hft_core.recipe.recipe_file import read

    result = run_source(
        read(recipe),
        ctx.obj.catalogue,
        folder,
        trust_remote_code=trust_remote_code,
        resume=True,
        max_seconds=seconds,
        accept_changed=accept_changed,
    )
    report(result, as_json=as_json)
