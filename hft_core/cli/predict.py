"""`hft predict`: a finished run's answers for texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hft_core.cli.run import TrustOption
from hft_core.cli.terminal import print_table, say_error
from hft_core.errors import UsageError


def predict(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    text: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT …]", help="Texts; a pair task takes them in twos.")
    ] = None,
    task: Annotated[str, typer.Option("--task", metavar="T", help="The task that answers.")] = "",
    input: Annotated[Path | None, typer.Option("--input", metavar="FILE", help="Rows of any data format.")] = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Write JSON lines there.")] = None,
    trust_remote_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines and nothing else.")] = False,
) -> None:
    """Answer for texts with a finished run; JSON lines keep their order."""
    if bool(text) == (input is not None):
        raise UsageError("give the texts, or --input FILE with rows")
    from hft_core import predict as prediction
    from hft_core.results import write_text
    from hft_core.saved import open_run

    saved = open_run(run, ctx.obj.catalogue, trust_remote_code=trust_remote_code)
    for warning in saved.warnings:
        say_error(f"warning: {warning}")
    tasks = list(saved.model.heads)
    if not task and len(tasks) > 1:
        raise UsageError(f"--task is missing: which of {', '.join(tasks)}?")
    task = task or tasks[0]
    rows = prediction.rows_from_file(input, task) if input else prediction.rows_from_texts(saved, task, text or [])
    answers = prediction.predict(saved, task, rows)
    lines = [json.dumps(answer, ensure_ascii=False) for answer in answers]
    if output is not None:
        write_text(output, "\n".join(lines) + "\n")
    elif as_json:
        print("\n".join(lines))
    else:
        print_table(("row", "answer", "probability"), [_row(i, answer) for i, answer in enumerate(answers, start=1)])


def _row(number: int, answer: dict[str, Any]) -> tuple[object, ...]:
    value = answer.get("label", answer.get("value", ""))
    probability = answer.get("probabilities", {}).get(answer.get("label"))
    return number, value, "" if probability is None else f"{probability:.4f}"
