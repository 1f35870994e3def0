"""`hft run`: train a recipe that is given as a file or by flags."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hft_core.cli import auto, launch
from hft_core.cli.terminal import also_in_a_file, print_json, print_table, say, say_error
from hft_core.errors import UsageError
from hft_core.runtime import time_limit

if TYPE_CHECKING:
    from hft_core.plugins.catalogue import Catalogue
    from hft_core.recipe.resolve import Resolved
    from hft_core.recipe.yaml_source import Source
    from hft_core.results import RunResult, StageResult

AUTO = Path("auto")
"""In place of a recipe: its stages are chosen."""
RecipeArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[RECIPE.yaml]", help="A recipe; or use flags ('auto' with flags chooses the stages)."),
]
BackboneOption = Annotated[str | None, typer.Option("--backbone", metavar="PATH", help="Folder, GGUF file or hub id.")]
TaskOption = Annotated[
    list[str] | None,
    typer.Option("--task", metavar="NAME=HEAD:FILES", help="A task; several make one stage with all of them."),
]
StrategyOption = Annotated[
    str | None, typer.Option("--strategy", metavar="NAME[,KEY=VALUE…]", help="The stage's strategy.")
]
CombinerOption = Annotated[
    str | None, typer.Option("--combiner", metavar="NAME[,KEY=VALUE…]", help="The stage's combiner.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change any value of the recipe.")
]
TrackOption = Annotated[
    list[str] | None,
    typer.Option("--track", metavar="NAME", help="Record the run with a tracker (tensorboard, wandb, …)."),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="RUN", help="New folder for everything; runs/… if left out.")
]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let the model's own repository run its code on this machine.")
]


ProcessesOption = Annotated[
    int, typer.Option("--processes", min=1, help="Processes on this machine that divide the rows of each step.")
]
FsdpOption = Annotated[
    bool, typer.Option("--fsdp", help="Also shard the trunk's weights over the processes while it trains (FSDP2).")
]
MaxTimeOption = Annotated[
    str | None,
    typer.Option("--max-time", metavar="TIME", help="Save and stop after this time (2h30m), to be resumed later."),
]
SharedStagesOption = Annotated[
    Path | None,
    typer.Option(
        "--shared-stages", metavar="FOLDER", help="Take first stages that another run has trained alike, or leave them."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]
CacheSizeOption = Annotated[
    str | None,
    typer.Option(
        "--cache-size", metavar="SIZE", help="Keep at most this much in the cache, such as 20GB (also: HFT_CACHE_SIZE)."
    ),
]


def run(
    ctx: typer.Context,
    recipe: RecipeArgument = None,
    backbone: BackboneOption = None,
    task: TaskOption = None,
    strategy: StrategyOption = None,
    combiner: CombinerOption = None,
    set_: SetOption = None,
    track: TrackOption = None,
    out: OutOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out, if it was interrupted.")] = False,
    processes: ProcessesOption = 1,
    fsdp: FsdpOption = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Profile a few steps of each stage, into RUN/profile.")
    ] = False,
    shared_stages: SharedStagesOption = None,
    trust_remote_code: TrustOption = False,
    cache_size: CacheSizeOption = None,
    max_time: MaxTimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe, given as a file or by flags."""
    limit_cache(cache_size)
    seconds = time_limit.seconds_of(max_time, "--max-time")
    if resume and out is None:
        raise UsageError("--resume needs --out RUN, the folder of the run that was stopped")
    if shared_stages is not None and processes > 1:
        raise UsageError("--shared-stages is for runs of one process")
    if fsdp:
        launch.request_fsdp(processes)
    source = tracked(source_of(recipe, backbone, task, strategy, combiner, set_, ctx.obj.catalogue), track)
    folder = out or new_run_folder(recipe.stem if recipe else "run")
    if processes > 1 and not launch.launched():
        check_batch_sizes(source, ctx.obj.catalogue, processes)  # report a wrong recipe once, not in each process
        raise typer.Exit(launch.run(processes, [*ctx.obj.arguments, *(() if out else ("--out", str(folder)))]))
    result = run_source(
        source,
        ctx.obj.catalogue,
        folder,
        trust_remote_code=trust_remote_code,
        resume=resume,
        profile=profile,
        max_seconds=seconds,
        shared_stages=shared_stages,
    )
    report(result, as_json=as_json)


def limit_cache(size: str | None) -> None:
    """Set the cache's limit for this process and those that it starts. Raises `UsageError` where `size` is none."""
    from hft_core.runtime import cache

    if size is not None:
        cache.parse_size(size, "--cache-size")
        os.environ[cache.SIZE] = size
    cache.limit()  # a wrong environment variable is told before anything is loaded


def report(result: RunResult, *, as_json: bool) -> None:
    """Print the results of a run, in rank 0 only."""
    from hft_core.runtime.run_folder import RunFolder

    if not launch.is_main():
        return
    with also_in_a_file(RunFolder(result.folder).results if result.folder else "no file"):
        if as_json:
            print_json(result.to_json())
        else:
            print_result(result)


def source_of(
    recipe: Path | None,
    backbone: str | None,
    tasks: list[str] | None,
    strategy: str | None,
    combiner: str | None,
    assignments: list[str] | None,
    catalogue: Catalogue,
) -> Source:
    """Build the recipe from a file or from flags, or choose its stages (`auto`). Raises `UsageError` for both or
    neither."""
    from hft_core.recipe.flags import recipe_from_flags
    from hft_core.recipe.recipe_file import override, read
    from hft_core.recipe.yaml_source import Source

    flags = [name for name, value in (("--backbone", backbone), ("--task", tasks)) if value]
    if recipe == AUTO and not recipe.exists():
        return auto.source_of(catalogue, backbone, tasks, [strategy, combiner], assignments or [])
    if recipe is not None:
        flags += [name for name, value in (("--strategy", strategy), ("--combiner", combiner)) if value]
        if flags:
            raise UsageError(f"give a recipe file or {', '.join(flags)}, not both; --set changes values of a file")
        source = read(recipe)
    else:
        if backbone is None or not tasks:
            raise UsageError("give a recipe file, or --backbone PATH and at least one --task NAME=HEAD:FILES")
        data = recipe_from_flags(backbone, tasks, strategy=strategy, combiner=combiner)
        source = Source.of(data, "command line", Path.cwd())
    return override(source, assignments or ())


def tracked(source: Source, trackers: list[str] | None) -> Source:
    """Return the recipe with these trackers instead of its own, if any are given; each as NAME[,KEY=VALUE…]."""
    from hft_core.recipe.flags import plugin_from_flag
    from hft_core.recipe.overrides import set_value

    if not trackers:
        return source
    chosen = [plugin_from_flag(text, "--track") for text in trackers]
    return set_value(source, ("output", "track"), chosen, f"--track {' '.join(trackers)}")


def resolved_of(source: Source, catalogue: Catalogue) -> Resolved:
    """Validate the recipe and find its plugins; errors name the line or flag."""
    from hft_core.recipe.recipe_file import validate
    from hft_core.recipe.resolve import resolve

    return resolve(validate(source), catalogue, source.where)


def check_batch_sizes(source: Source, catalogue: Catalogue, processes: int) -> None:
    """Check the recipe as `resolved_of` does, and that its batch sizes agree on so many processes."""
    from hft_core.recipe.batch_size import with_batch_sizes

    with_batch_sizes(resolved_of(source, catalogue), processes)


def new_run_folder(name: str) -> Path:
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def run_source(
    source: Source,
    catalogue: Catalogue,
    folder: Path,
    *,
    trust_remote_code: bool = False,
    resume: bool = False,
    accept_changed: bool = False,
    profile: bool = False,
    max_seconds: float | None = None,
    shared_stages: Path | None = None,
) -> RunResult:
    """Run with progress on standard error; after a signal to stop, or `max_seconds`, the run can be resumed."""
    from hft_core.cli.progress import observer
    from hft_core.runtime import signals

    progress = observer() if launch.is_main() else None
    try:
        with signals.listening():  # imports take seconds too
            resolved = resolved_of(source, catalogue)  # before most of them, so that a wrong recipe is reported at once
            from hft_core.runs.opening import RunOptions
            from hft_core.runs.runner import run_resolved

            observers: list[object] = [progress] if progress else []
            if profile:
                from hft_core.runs.profiler import StepProfiler

                observers.append(StepProfiler(folder))
            options = RunOptions(
                output=folder,
                observers=observers,
                trust_remote_code=trust_remote_code,
                resume=resume,
                max_time=max_seconds,
                accept_changed=accept_changed,
                shared_stages=shared_stages,
            )
            signals.check()
            return run_resolved(resolved, catalogue, options)
    except signals.Interrupted as stopped:
        from hft_core.runtime.run_folder import RECIPE_FILE

        begun = not launch.is_main() or (folder / RECIPE_FILE).exists()  # which one process writes
        where = f"; resume with: hft resume {folder}" if begun else "; the run had not begun"
        raise signals.Interrupted(stopped.number, where) from stopped
    finally:
        if progress:
            with suppress(OSError):  # a terminal that has gone
                progress.close()


def print_result(result: RunResult) -> None:
    """Print the scores, the stages and their cost."""
    known_before = [(stage.name, stage.before) for stage in result.stages]
    rows = []
    for task, metric in result.main_metrics.items():
        first = next((f"{b[task][metric]:.4g}" for _, b in known_before if metric in b.get(task, {})), "–")
        cells = [f"{s[task][metric]:.4g}" if task in s else "–" for s in (result.final["dev"], result.final["test"])]
        rows.append((task, metric, first, *cells))
    say()
    print_table(("task", "metric", "dev before", "dev", "test"), rows)
    say()
    headings = ("stage", "strategy", "combiner", "trunk trained", "steps", "rows a step", "best")
    print_table(headings, [_cost(stage) for stage in result.stages])
    say()
    for stage in result.stages:
        say(cost_text(stage))
        if stage.best_reason:
            say(f"{stage.name}: {stage.best_reason}")
    for warning in result.warnings:
        say_error(f"warning: {warning}")
    say()
    say(f"{result.seconds:.0f} s on {result.device} in {result.precision}; everything is in {result.folder}")


def cost_text(stage: StageResult) -> str:
    """Format the throughput and the seconds of a stage in one line."""
    share = "" if stage.gemm_share is None else f", {stage.gemm_share:.0%} of peak matmul throughput"
    spent = ", ".join(
        f"{part} {seconds:.1f}" for part, seconds in stage.seconds.items() if part != "total" and seconds >= 0.05
    )
    return (
        f"{stage.name}: {stage.rows_per_s:.0f} rows/s, {stage.tokens_per_s:.0f} tokens/s in {stage.precision}{share}; "
        f"{stage.seconds['total']:.1f} s ({spent})"
    )


def _cost(stage: StageResult) -> tuple[object, ...]:
    return (
        stage.name,
        stage.strategy or "–",
        stage.combiner or "–",
        f"{stage.trainable / stage.trunk:.2%}",
        stage.steps,
        stage.train_batch_size,
        stage.best_step,
    )
