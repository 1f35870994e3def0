"""`hft index`: make an index of rows that can be searched by meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hft_core.cli.run import TrustOption
from hft_core.cli.terminal import say, say_error


def index(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    input: Annotated[str, typer.Option("--input", metavar="FILE", help="Rows of any data format.")],
    out: Annotated[Path, typer.Option("--out", metavar="INDEX", help="The new folder.")],
    task: Annotated[
        str | None,
        typer.Option("--task", metavar="T", help="The task that embeds; may be left out where one is contrastive."),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option("--text", metavar="COLUMN", help="The column that is embedded, where the task reads several."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare with every row, also where there are more than 50,000.")
    ] = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Embed the rows of a file by a task of a finished run, for 'hft search' and 'hft serve --index'."""
    from hft_core.cli.row_progress import row_progress
    from hft_core.predict.saved_run import open_run
    from hft_core.recipe.names import normalized
    from hft_core.search.build import build_index
    from hft_core.search.index_folder import check_unused

    check_unused(out)
    saved = open_run(run, ctx.obj.catalogue, trust_remote_code=trust_remote_code, merge=True)
    for warning in saved.warnings:
        say_error(f"warning: {warning}")
    named = None if task is None else normalized(task)
    with row_progress() as show:
        facts = build_index(saved, input, out, named, text=text, exact=exact, on_progress=show).facts
    how = "in a graph, approximately" if facts.approximate else "exactly"
    say(f"{facts.rows:,} rows by column '{facts.text}', searched {how}: {out}")
