"""`hft validate`: check a recipe without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from hft_core.cli.data_report import print_data
from hft_core.cli.run import (
    BackboneOption,
    CombinerOption,
    ProcessesOption,
    RecipeArgument,
    SetOption,
    StrategyOption,
    TaskOption,
    TrackOption,
    TrustOption,
    resolved_of,
    source_of,
    tracked,
)
from hft_core.cli.terminal import print_json, print_table, say, say_error

if TYPE_CHECKING:
    from hft_core.runs.validate import StageForecast


HEADINGS = (
    "stage",
    "strategy",
    "combiner",
    "steps",
    "rows a step",
    "trainable: trunk",
    "heads",
    "learning rate: trunk",
    "heads",
)


def validate(
    ctx: typer.Context,
    recipe: RecipeArgument = None,
    backbone: BackboneOption = None,
    task: TaskOption = None,
    strategy: StrategyOption = None,
    combiner: CombinerOption = None,
    set_: SetOption = None,
    track: TrackOption = None,
    processes: ProcessesOption = 1,
    trust_remote_code: TrustOption = False,
    whole_recipe: Annotated[
        bool, typer.Option("--recipe", help="Also print the recipe with every default written out.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Check a recipe, its plugins and its data without training."""
    catalogue = ctx.obj.catalogue
    source = tracked(source_of(recipe, backbone, task, strategy, combiner, set_, catalogue), track)
    resolved = resolved_of(source, catalogue)
    from hft_core.recipe import recipe_file
    from hft_core.runs.validate import inspect

    report = inspect(resolved, trust_remote_code=trust_remote_code, processes=processes)
    if as_json:
        rest = {
            "rows": report.rows,
            "examples": report.examples,
            "streams": {name: asdict(files) for name, files in report.streams.items()},
            "data": {name: asdict(task) for name, task in report.data.items()},
            "stages": [asdict(stage) for stage in report.stages],
            "warnings": list(report.warnings),
        }
        print_json({"recipe": report.recipe.model_dump(mode="json"), **rest})
        return
    splits = ("train", "dev", "test")
    print_table(
        ("task", "rows: train", "dev", "test", "examples: train", "dev", "test"),
        [
            (name, *(found.get(s, "–") for found in (rows, report.examples[name]) for s in splits))
            for name, rows in report.rows.items()
        ],
    )
    for name, stream in report.streams.items():
        say(
            f"task '{name}' streams {stream.files:,} file{'s' * (stream.files > 1)}, {stream.bytes:,} bytes: all were "
            f"opened, and the first {stream.checked_rows:,} rows checked; the others are checked when they are read"
        )
    print_data(report.data)
    say()
    _print_stages(report.stages)
    for warning in report.warnings:
        say_error(f"warning: {warning}")
    if whole_recipe:
        say()
        for line in recipe_file.dump(report.recipe).splitlines():
            say(line)


def _print_stages(stages: Sequence[StageForecast]) -> None:
    from hft_core.memory.advice import describe

    print_table(HEADINGS, [_row(stage) for stage in stages])
    say()
    for stage in stages:
        say(f"memory of stage '{stage.name}': {describe(stage.memory, stage.room)}")


def _row(stage: StageForecast) -> tuple[object, ...]:
    return (
        stage.name,
        stage.strategy or "–",
        stage.combiner or "–",
        stage.steps,
        stage.train_batch_size,
        f"{stage.trainable:,} of {stage.trunk:,} ({stage.trainable / stage.trunk:.2%})",
        f"{stage.heads:,}",
        f"{stage.learning_rate:g}",
        f"{stage.head_learning_rate:g}",
    )
