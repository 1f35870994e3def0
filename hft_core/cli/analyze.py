"""`hft analyze`: how the tasks of a finished run act on one another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hft_core.cli.run import TrustOption
from hft_core.cli.terminal import print_json, print_table, say, say_error

if TYPE_CHECKING:
    from hft_core.analysis.analyze import Analysis


def analyze(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run with two or more tasks.")],
    task: Annotated[
        list[str] | None, typer.Option("--task", metavar="T", help="Only these tasks; repeat. All of the last stage.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Training rows of each task in a draw.")] = 16,
    draws: Annotated[int, typer.Option("--draws", min=1, help="Draws to average over.")] = 16,
    trust_remote_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Measure gradient conflicts between tasks, and which tasks help each other."""
    from hft_core.analysis.analyze import analyze as measured
    from hft_core.predict.saved_run import open_run
    from hft_core.recipe.names import normalized

    saved = open_run(run, ctx.obj.catalogue, trust_remote_code=trust_remote_code)
    for warning in saved.warnings:
        say_error(f"warning: {warning}")
    found = measured(saved, [normalized(name) for name in task] if task else None, rows=rows, draws=draws)
    if as_json:
        print_json(found.to_json())
        return
    _show(found)


def _show(found: Analysis) -> None:
    say(f"gradients of the shared parameters, {found.draws} draws of {found.rows} training rows of each task")
    print_table(
        ("tasks", "cosine", "standard error", "draws in conflict", "lowest", "highest"),
        [
            (
                " – ".join(pair.tasks),
                f"{pair.cosine:.3f}",
                f"{pair.cosine_error:.3f}",
                f"{pair.conflicts:.0%}",
                *(f"{layer} {pair.by_layer[layer]:.3f}" for layer in _extremes(pair.by_layer)),
            )
            for pair in found.pairs
        ],
    )
    say()
    say(f"change of each task's loss after a step of {found.step:g} on another (below zero: it falls)")
    print_table(
        ("a step on", *found.tasks),
        [
            (task, *(f"{-100 * value:+.3f} %" for value in row))
            for task, row in zip(found.tasks, found.affinity, strict=True)
        ],
    )
    if found.groups is not None:
        together = "; ".join(", ".join(group) for group in found.groups)
        say()
        say(f"by these changes, train together: {together}")


def _extremes(by_layer: Mapping[str, float]) -> tuple[str, str]:
    return min(by_layer, key=by_layer.__getitem__), max(by_layer, key=by_layer.__getitem__)
