"""`hft export`: a finished run in the formats of other programs, with a verdict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hft_core.cli.run import TrustOption
from hft_core.cli.terminal import print_json, print_table, say
from hft_core.errors import RunError

if TYPE_CHECKING:
    from hft_core.export.verdict import Verdict


def export(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="hf|onnx|sentence-transformers|gguf",
            help="A folder of transformers for each task, one ONNX graph, folders of sentence-transformers, or a GGUF "
            "file for each task of a decoder's LM head.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The new folder.")],
    tasks: Annotated[
        str | None, typer.Option("--tasks", metavar="T,…", help="These tasks only, with commas between them.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="With --to onnx: int8 weights, approximately.")] = False,
    outtype: Annotated[
        str | None,
        typer.Option("--outtype", metavar="TYPE", help="With --to gguf: f32, f16 (the default), bf16 or q8_0."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            metavar="X",
            min=0,
            help="How much worse main scores may be, and the share of answers that may differ (0.01; with --int8, "
            "bf16 or q8_0: 0.05). Beyond it the exit status is 1.",
        ),
    ] = None,
    trust_remote_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Export a finished run, and compare what was written with it on its test rows."""
    from hft_core.export.export_run import export_run
    from hft_core.recipe.names import normalized

    named = [normalized(name.strip()) for name in (tasks or "").split(",") if name.strip()]
    verdict = export_run(
        run,
        to,
        out,
        ctx.obj.catalogue,
        tasks=named,
        int8=int8,
        outtype=outtype,
        tolerance=tolerance,
        trust_remote_code=trust_remote_code,
    )
    if as_json:
        print_json(verdict.facts())
    else:
        headings = ("task", "split", "rows", "metric", "run", "export", "other answers", "largest difference")
        print_table(headings, _lines(verdict))
        say(f"written: {out}")
    if verdict.beyond:
        problems = "; ".join(f"task '{task}': {verdict.tasks[task].problem()}" for task in verdict.beyond)
        raise RunError(f"{out} is beyond the tolerance of {verdict.tolerance:g}: {problems}")


def _lines(verdict: Verdict) -> Iterator[tuple[object, ...]]:
    """A line for each task: its main score (or all scores, for a head that has none), and how answers differ."""
    for task, found in verdict.tasks.items():
        scores = [name for name in found.original if name == found.main_metric] or list(found.original) or [""]
        share = "" if found.other_answers is None else f"{found.other_answers:.2%}"
        for name in scores:
            values = (found.original.get(name), found.exported.get(name))
            shown = ("" if value is None else f"{value:.6g}" for value in values)
            yield task, found.split, found.rows, name, *shown, share, f"{found.largest_difference:.2g}"
