"""`hft search`: find the rows of an index that are nearest to a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hft_core.cli.predict import check_output
from hft_core.cli.run import TrustOption
from hft_core.cli.terminal import print_json_line, print_table, say_error
from hft_core.errors import ModelError, UsageError

if TYPE_CHECKING:
    from hft_core.search.index import Hit, Index

SHOWN = 100
"""Characters of a text in the table."""


def search(
    ctx: typer.Context,
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="A folder that 'hft index' made.")],
    query: Annotated[
        list[str] | None, typer.Option("--query", metavar="TEXT", help="What to search for; may be repeated.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option("--queries", metavar="FILE", help="A query a row, in any data format.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="With --queries: write its columns and the results there (.csv, .tsv, .parquet, or JSON lines).",
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Rows to find for each query.")] = 5,
    rerank: Annotated[
        str | None,
        typer.Option("--rerank", metavar="T", help="Order the nearest rows by this task of the run (a ranking)."),
    ] = None,
    candidates: Annotated[
        int, typer.Option("--candidates", min=1, help="With --rerank: rows of each query that are re-ranked.")
    ] = 50,
    text: Annotated[
        str | None, typer.Option("--text", metavar="COLUMN", help="With --queries: the column of the queries.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="Where the run is now, if its folder was moved.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare with every row, also in an approximate index.")
    ] = False,
    trust_remote_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line for each query.")] = False,
) -> None:
    """Find the rows of an index that are nearest to texts."""
    _check(query or [], queries, output)
    opened = _open(ctx, index, run, exact=exact, trust_remote_code=trust_remote_code)
    if queries is not None and output is not None:
        from hft_core.cli.row_progress import row_progress
        from hft_core.search.query_file import search_file

        with row_progress() as show:
            search_file(opened, queries, output, k, text=text, rerank=rerank, candidates=candidates, on_progress=show)
        return
    for asked, hits in zip(
        query or (), opened.search(query or (), k, rerank=rerank, candidates=candidates), strict=True
    ):
        if as_json:
            print_json_line({"query": asked, "results": [hit.to_json() for hit in hits]})
        else:
            _print(asked if len(query or ()) > 1 else "", hits, opened.facts.text)


def _check(query: Sequence[str], queries: Path | None, output: Path | None) -> None:
    """Raise `UsageError` for options that do not go together, and for an output that cannot be written."""
    if bool(query) == (queries is not None):
        raise UsageError("give --query TEXT, or --queries FILE with --output FILE")
    if (queries is None) != (output is None):
        raise UsageError("--queries and --output go together: a file of queries, and one for the results")
    if output is not None:
        check_output(output, "--output")
    if blank := next((text for text in query if not text.strip()), None):
        raise UsageError(f"--query {blank!r}: expected a text")


def _open(ctx: typer.Context, folder: Path, run: Path | None, *, exact: bool, trust_remote_code: bool) -> Index:
    """Open the index with its run. Raises `UsageError`."""
    from hft_core.search.index_folder import read_facts

    facts = read_facts(folder)
    from hft_core.predict.saved_run import open_run
    from hft_core.search.index import bound

    place = run or Path(facts.run)
    if run is None and not place.is_dir():
        raise ModelError(f"{folder}: the run that made it is not in {place} any more: give --run RUN")
    saved = open_run(place, ctx.obj.catalogue, trust_remote_code=trust_remote_code, merge=True)
    for warning in saved.warnings:
        say_error(f"warning: {warning}")
    return bound(folder, facts, saved, exact=exact)


def _print(query: str, hits: Sequence[Hit], column: str) -> None:
    scored = any(hit.score is not None for hit in hits)
    headings = ("row", "similarity", *(("score",) if scored else ()), column)
    lines = [
        (
            hit.number,
            f"{hit.similarity:.4f}",
            *((f"{hit.score:.4f}",) if hit.score is not None else ()),
            _short(str(hit.row.get(column, ""))),
        )
        for hit in hits
    ]
    if query:
        print_table(("", ""), [("query", query)])
    print_table(headings, lines, wrap=(column,))


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
