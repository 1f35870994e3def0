"""`hft evaluate`: scores of a finished run, on its own splits or on new rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hft_core.cli.run import TrustOption
from hft_core.cli.terminal import print_json, print_table, say_error
from hft_core.errors import UsageError


def evaluate(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    task: Annotated[str | None, typer.Option("--task", metavar="T", help="One task only.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FILE", help="Labelled rows; the run's own splits if left out.")
    ] = None,
    trust_remote_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Score a finished run on its own splits, or on new rows."""
    if data is not None and task is None:
        raise UsageError("--data needs --task: which task are the rows for?")
    from hft_core import predict
    from hft_core.saved import open_run

    saved = open_run(run, ctx.obj.catalogue, trust_remote_code=trust_remote_code)
    for warning in saved.warnings:
        say_error(f"warning: {warning}")
    if data is not None and task is not None:
        scores = {str(data): {task: predict.evaluate(saved, task, predict.rows_from_file(data, task))}}
    else:
        scores = predict.evaluate_recipe_data(saved, [task] if task else list(saved.model.heads))
    if as_json:
        print_json(scores)
        return
    rows = [
        (split, name, metric, f"{value:.6g}")
        for split, by_task in scores.items()
        for name, metrics in by_task.items()
        for metric, value in metrics.items()
    ]
    print_table(("split", "task", "metric", "value"), rows)
