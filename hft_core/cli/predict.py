"""`hft predict`: predict on texts with a finished run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hft_core.cli.run import TrustOption
from hft_core.cli.terminal import print_json_line, print_table, say_error
from hft_core.errors import UsageError
from hft_core.sanitize import finite, json_text

if TYPE_CHECKING:
    from hft_core.data.rows import Rows
    from hft_core.predict.prediction import Trained

ROWS_AT_ONCE = 10_000
"""Rows of the input in memory while the answers are written."""


def predict(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    text: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT …]", help="Texts; a pair task takes them in twos.")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="T", help="The task that answers; several with one option each."),
    ] = None,
    all_tasks: Annotated[bool, typer.Option("--all-tasks", help="All tasks that have answers.")] = False,
    input: Annotated[Path | None, typer.Option("--input", metavar="FILE", help="Rows of any data format.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write JSON lines there: the input's columns and the answers."),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Quantise the trunk's linear layers (CPU): quicker than float32, and approximate."),
    ] = False,
    trust_remote_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines and nothing else.")] = False,
) -> None:
    """Predict on texts with a finished run; JSON lines are in the order of the input."""
    if bool(text) == (input is not None):
        raise UsageError("give the texts, or --input FILE with rows")
    if output is not None:
        _check_output(output)
    from hft_core.predict import prediction as prediction
    from hft_core.predict.saved_run import open_run
    from hft_core.recipe.names import normalized
    from hft_core.runtime.files import write_text

    saved = open_run(run, ctx.obj.catalogue, trust_remote_code=trust_remote_code, int8=int8)
    for warning in saved.warnings:
        say_error(f"warning: {warning}")
    if int8:
        say_error(f"int8: probabilities are approximate; 'hft evaluate {run} --int8' measures what that costs")
    tasks = _tasks(saved, list(map(normalized, task or [])), all_tasks)
    rows = prediction.rows_from_file(input, tasks[0]) if input else prediction.rows_for_tasks(saved, tasks, text or [])
    by_task = prediction.predict_tasks(saved, rows, tasks)
    several = all_tasks or len(tasks) > 1
    answers = [dict(zip(tasks, row, strict=True)) for row in zip(*by_task.values(), strict=True)]
    lines = answers if several else by_task[tasks[0]]
    if output is not None:
        write_text(output, "".join(json_text(finite(line), default=str) + "\n" for line in with_input(rows, lines)))
    elif as_json:
        for line in lines:
            print_json_line(line)
    else:
        _print_answers(answers, several=several)


def _check_output(path: Path) -> None:
    """Raise `UsageError` if the file cannot be written, before anything is computed."""
    if path.exists() and not path.is_file():
        raise UsageError(f"--output {path}: expected a file to write, not a {'folder' if path.is_dir() else 'device'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {path}: its folder cannot be made: {error.strerror}") from error


def _tasks(saved: Trained, named: list[str], every: bool) -> list[str]:
    """Choose the tasks; a single one need not be named. Raises `UsageError`."""
    from hft_core.predict.prediction import answering

    if named and every:
        raise UsageError("give --task or --all-tasks, not both")
    tasks = answering(saved) if every else list(dict.fromkeys(named)) or list(saved.model.heads)
    if not named and not every and len(tasks) > 1:
        raise UsageError(f"--task is missing: which of {', '.join(tasks)}? --all-tasks asks all that have answers")
    return tasks


def with_input(rows: Rows, lines: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield each row's columns with its answer. A column that has the name of a key of the answer is called
    `input_NAME`."""
    cells = (
        dict(zip(columns, row, strict=True))
        for _, columns in rows.batches(ROWS_AT_ONCE)
        for row in zip(*columns.values(), strict=True)
    )
    for row, line in zip(cells, lines, strict=True):
        taken = {*line, *row}
        free = {name: _free_name(name, taken) if name in line else name for name in row}
        yield {**{free[name]: value for name, value in row.items()}, **line}


def _free_name(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name = f"input_{name}"
    return name


def _print_answers(answers: Sequence[Mapping[str, Any]], *, several: bool) -> None:
    """Print a table of each row's answers by task, with their probabilities where they have any."""
    said = [
        (number, name, *_said(answer)) for number, row in enumerate(answers, start=1) for name, answer in row.items()
    ]
    shown = [True, several, True, any(probability for *_, probability in said)]
    print_table(
        tuple(compress(("row", "task", "answer", "probability"), shown)), [tuple(compress(row, shown)) for row in said]
    )


def _said(answer: Mapping[str, Any]) -> tuple[object, object]:
    value = next((answer[key] for key in ("label", "value", "text") if key in answer), "")
    probability = answer.get("probabilities", {}).get(answer.get("label"))
    return value, "" if probability is None else f"{probability:.4f}"
