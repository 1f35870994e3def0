"""Predict the rows of a file of any size, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hft_core.data import row_notes, stream
from hft_core.data.stream import BadRow, Chunk, RowStream
from hft_core.errors import DataError, UsageError
from hft_core.predict import answer_file
from hft_core.predict.answer_file import Progress
from hft_core.predict.answer_lines import lines_of, with_input
from hft_core.predict.prediction import Counts, answering, predict_counted
from hft_core.predict.saved_run import SavedRun
from hft_core.runtime import signals
from hft_core.runtime.files import file_hash
from hft_core.runtime.run_folder import RunFolder

OnProgress = Callable[[Progress, int], None]
"""Called after each chunk with what is done, and the rows of the input (or shard)."""
Shard = tuple[int, int]
"""`(i, n)`: the i-th (from 1) of n parts of the rows; each is consecutive rows, and one behind another they are all."""


def predict_file(
    saved: SavedRun,
    input: str | Path,
    output: str | Path,
    tasks: Sequence[str] | None = None,
    *,
    rejects: str | Path | None = None,
    shard: Shard = (1, 1),
    by_task: bool | None = None,
    on_progress: OnProgress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Progress:
    """Predict each row of a data file and write the answers, beside the row's columns, to `output`.

    The suffix of `output` chooses its format: `.csv`, `.tsv`, `.parquet`, and otherwise JSON lines. Where an earlier
    call ended early, its answers stay and this one resumes after them; the input must be the same. `tasks`: all that
    have answers when left out. `rejects`: where rows that cannot be used are written, with the reason; without it the
    first of them ends the call. `by_task`: each answer stands under its task's name; so by default with several tasks.
    `on_note` gets at the end what is odd about the texts that this call read, a line for each kind with its count.

    Raises `DataError` for bad rows, `UsageError` when answers of something else are in the way, and `RunError` where
    a file cannot be written.
    """
    tasks = answering(saved) if tasks is None else tasks
    source = stream.open_stream(str(input), task=tasks[0])
    start, stop = part_of(source.total, shard)
    several = len(tasks) > 1 if by_task is None else by_task
    columns = [column for task in tasks for column in saved.model.head(task).columns()]
    of = _identity(saved, tasks, source, shard)
    counts: Counts = {}
    with answer_file.opened(Path(output), None if rejects is None else Path(rejects), of) as answers:
        for chunk in source.chunks(start + answers.done.read, stop):
            signals.check()
            good = stream.without_bad(chunk, columns, task=tasks[0], first=not answers.done.read)
            if rejects is None:
                refuse_bad(good, tasks[0])
            answers.add(_lines(saved, tasks, good, several, counts), map(_rejected, good.bad), chunk.count)
            if on_progress is not None:
                on_progress(answers.done, stop - start)
        answers.finish()
    if on_note is not None:
        for line in row_notes.counted(counts):
            on_note(line)
    return answers.done


def part_of(total: int, shard: Shard) -> tuple[int, int]:
    """Return where a shard's rows begin and end. Raises `UsageError` for one that there is not."""
    number, count = shard
    if not 1 <= number <= count:
        raise UsageError(f"shard {number}/{count}: expected one from 1/{count} to {count}/{count}")
    return total * (number - 1) // count, total * number // count


def _identity(saved: SavedRun, tasks: Sequence[str], source: RowStream, shard: Shard) -> dict[str, Any]:
    return {
        "run": file_hash(RunFolder(saved.folder).results),
        "task": ", ".join(tasks),
        "input": source.digest,
        "shard": f"{shard[0]}/{shard[1]}",
    }


def _lines(
    saved: SavedRun, tasks: Sequence[str], chunk: Chunk, several: bool, counts: Counts
) -> Iterable[Mapping[str, Any]]:
    if chunk.rows is None:
        return ()
    by_task = predict_counted(saved, chunk.rows, tasks, counts)
    return with_input(chunk.rows, lines_of(by_task, several=several))


def refuse_bad(chunk: Chunk, task: str) -> None:
    """Raise `DataError` for the first bad row of a chunk, with the count of further ones."""
    if chunk.bad:
        more = f" (and {len(chunk.bad) - 1} more row{'s' if len(chunk.bad) > 2 else ''})" if len(chunk.bad) > 1 else ""
        raise DataError(f"task '{task}': {chunk.bad[0].reason}{more}")


def _rejected(row: BadRow) -> dict[str, Any]:
    return {"number": row.number, "reason": row.reason, "row": row.record}
