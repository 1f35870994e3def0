"""`hft predict`: predict on texts with a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hft_core.cli.removed_options import RemovedInt8, refuse_int8
from hft_core.cli.run import TrustOption
from hft_core.cli.terminal import print_json_line, print_table, say_error
from hft_core.errors import UsageError

if TYPE_CHECKING:
    from hft_core.predict.prediction import Trained
    from hft_core.predict.saved_run import SavedRun


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
    all_tasks: Annotated[bool, typer.Option("--all", "--all-tasks", help="All tasks that have answers.")] = False,
    input: Annotated[str | None, typer.Option("--input", metavar="FILE", help="Rows of any data format.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Write the input's columns and the answers there (.csv, .tsv, .parquet, or JSON lines); the same "
            "command resumes where one was interrupted.",
        ),
    ] = None,
    rejects: Annotated[
        Path | None,
        typer.Option("--rejects", metavar="FILE", help="Write rows that cannot be used there, instead of ending."),
    ] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="The I-th of N equal parts of the input.")
    ] = None,
    int8: RemovedInt8 = False,
    trust_remote_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines and nothing else.")] = False,
) -> None:
    """Predict on texts with a finished run; JSON lines are in the order of the input."""
    refuse_int8(run, given=int8)
    if bool(text) == (input is not None):
        raise UsageError("give the texts, or --input FILE with rows")
    if (rejects is not None or shard is not None) and (input is None or output is None):
        raise UsageError("--rejects and --shard are for files: expected --input and --output beside them")
    for name, path in (("--output", output), ("--rejects", rejects)):
        if path is not None:
            check_output(path, name)
    part = _shard(shard)
    from hft_core.predict.saved_run import open_run
    from hft_core.recipe.names import normalized

    saved = open_run(run, ctx.obj.catalogue, trust_remote_code=trust_remote_code, merge=True)
    for warning in saved.warnings:
        say_error(f"warning: {warning}")
    tasks = _tasks(saved, list(map(normalized, task or [])), all_tasks)
    several = all_tasks or len(tasks) > 1
    if input is not None and output is not None:
        _predict_file(saved, tasks, input, output, rejects, part, several)
    else:
        _print(saved, tasks, text or [], input, several=several, as_json=as_json)


def _predict_file(
    saved: SavedRun,
    tasks: Sequence[str],
    input: str,
    output: Path,
    rejects: Path | None,
    shard: tuple[int, int],
    several: bool,
) -> None:
    from hft_core.cli.row_progress import row_progress
    from hft_core.predict.bulk import predict_file

    with row_progress() as show:
        done = predict_file(
            saved, input, output, tasks, rejects=rejects, shard=shard, by_task=several, on_progress=show, on_note=_warn
        )
    if done.rejected:
        say_error(f"{done.rejected} of {done.read} rows cannot be used: {rejects} has them with the reasons")


def _print(
    saved: SavedRun, tasks: Sequence[str], texts: Sequence[str], input: str | None, *, several: bool, as_json: bool
) -> None:
    """Print the answers: JSON lines, or a table."""
    from hft_core.data import row_notes
    from hft_core.predict import prediction
    from hft_core.predict.answer_lines import lines_of

    if input is None:
        rows = prediction.rows_for_tasks(saved, tasks, texts)
    else:
        rows = prediction.rows_from_file(input, tasks[0])
    counts: prediction.Counts = {}
    by_task = prediction.predict_counted(saved, rows, tasks, counts)
    for note in row_notes.counted(counts):
        _warn(note)
    if as_json:
        for line in lines_of(by_task, several=several):
            print_json_line(line)
    else:
        _print_answers(lines_of(by_task, several=True), several=several)


def _warn(note: str) -> None:
    say_error(f"warning: {note}")


def _shard(text: str | None) -> tuple[int, int]:
    """Return `i/n` as two numbers. Raises `UsageError`."""
    number, _, count = (text or "1/1").partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--shard {text}: expected I/N, such as 1/4 to 4/4")
    return int(number), int(count)


def check_output(path: Path, option: str) -> None:
    """Raise `UsageError` if the file cannot be written, before anything is computed."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{option} {path}: expected a file to write, not a {'folder' if path.is_dir() else 'device'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option} {path}: its folder cannot be made: {error.strerror}") from error


def _tasks(saved: Trained, named: list[str], every: bool) -> list[str]:
    """Choose the tasks; a single one need not be named. Raises `UsageError`."""
    from hft_core.predict.prediction import answering

    if named and every:
        raise UsageError("give --task or --all-tasks, not both")
    tasks = answering(saved) if every else list(dict.fromkeys(named)) or list(saved.model.heads)
    if not named and not every and len(tasks) > 1:
        raise UsageError(f"--task is missing: which of {', '.join(tasks)}? --all-tasks asks all that have answers")
    return tasks


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
