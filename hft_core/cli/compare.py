"""`hft compare`: arms of a recipe, over seeds, against honest controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hft_core.cli.terminal import print_json, print_table, say, say_error
from hft_core.errors import UsageError

if TYPE_CHECKING:
    from hft_core.studies.summary import Summary


def compare(
    ctx: typer.Context,
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE.yaml]", help="A recipe, or a compare.yaml.")] = None,
    vary: Annotated[
        list[str] | None, typer.Option("--vary", metavar="KEY.PATH=A,B,…", help="Values to compare; repeat to combine.")
    ] = None,
    against: Annotated[str, typer.Option("--against", metavar="ARM", help="The reference; by default the first.")] = "",
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Runs of each arm; 5 by default.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="STUDY", help="New folder for everything.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the study in --out.")] = False,
    controls: Annotated[
        str | None, typer.Option("--controls", metavar="A,B,…", help="Only these controls; by default all that apply.")
    ] = None,
    no_controls: Annotated[bool, typer.Option("--no-controls", help="Compare the arms alone.")] = False,
    tune: Annotated[
        str | None, typer.Option("--tune", metavar="learning_rate=N", help="Give each arm N tries of its rate, on dev.")
    ] = None,
    slots: Annotated[int | None, typer.Option("--slots", min=1, help="Runs at a time, which divide the cores.")] = None,
    launcher: Annotated[
        str | None, typer.Option("--launcher", metavar="NAME", help="Where runs are computed: local, slurm,gpus=1, …")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print study.json.")] = False,
) -> None:
    """Compare arms of a recipe over seeds, and say which is better."""
    if out is None:
        raise UsageError("--out STUDY is missing: the folder for the runs and tables")
    if controls is not None and no_controls:
        raise UsageError("give --controls or --no-controls, not both")
    from hft_core.runtime import signals
    from hft_core.studies import arms
    from hft_core.studies.compare import TABLES_FILE, request, study

    kinds = () if no_controls else None if controls is None else tuple(k.strip() for k in controls.split(","))
    many = None if seeds is None else tuple(range(seeds))
    tries = None if tune is None else arms.tries_of(tune)
    asked = request(recipe, arms.vary(vary or ()), against, many, kinds, tries)
    try:
        with signals.listening():
            summary = study(
                asked,
                out,
                ctx.obj.catalogue,
                slots=slots,
                resume=resume,
                options=ctx.obj.again(),
                launcher=launcher,
                say=say_error,
            )
    except signals.Interrupted as stopped:
        raise signals.Interrupted(stopped.number, f"; resume with: hft compare --resume --out {out}") from stopped
    if as_json:
        print_json(summary.to_json())
    else:
        _print(summary)
        say(f"everything is in {out}; the tables: {out / TABLES_FILE}")


def _print(summary: Summary) -> None:
    from hft_core.studies import tables

    for title, headings, rows in tables.tables(summary):
        say()
        say(title)
        print_table(headings, rows)
    say()
    for line in tables.lines(summary):
        say(line)
