"""Make an index of the rows of a data file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hft_core.data import stream
from hft_core.data.rows import Rows
from hft_core.errors import UsageError
from hft_core.head import Column
from hft_core.predict.answer_file import Progress
from hft_core.predict.bulk import OnProgress, refuse_bad
from hft_core.predict.embeddings import embed_texts, normalized
from hft_core.predict.prediction import head_of
from hft_core.predict.saved_run import SavedRun
from hft_core.runtime import signals
from hft_core.runtime.run_folder import RunFolder
from hft_core.search.index import Index, open_index
from hft_core.search.index_folder import check_unused, new_index
from hft_core.search.nearest import need_faiss
from hft_core.search.text_column import text_column

EXACT_ROWS = 50_000
"""An index of more rows is searched approximately."""


def build_index(
    saved: SavedRun,
    input: str | Path,
    folder: str | Path,
    task: str | None = None,
    *,
    text: str | None = None,
    exact: bool = False,
    on_progress: OnProgress | None = None,
) -> Index:
    """Embed the rows of a data file by a task, and write the index into the new folder `folder`.

    `task`: may be left out where only one has embeddings of its own. `text`: the column that is embedded; may be left
    out where the file has one that the task reads, or only one. `exact`: no graph, however many rows there are. The
    folder is there only once all of it is. Raises `DataError` for the first row without a text, `UsageError` for a task
    or a column that there is not, and `RunError` where the index cannot be written.
    """
    task, folder = task or _embedding_task(saved), Path(folder)
    head = head_of(saved, task)
    check_unused(folder)
    source = stream.open_stream(str(input), task=task)
    approximate = source.total > EXACT_ROWS and not exact
    if approximate:
        need_faiss(f"{input} has {source.total:,} rows, and more than {EXACT_ROWS:,} are searched")
    run, column, done = RunFolder(saved.folder), None, Progress()
    with new_index(folder, source.total) as index:
        for chunk in source.chunks():
            signals.check()
            if column is None and chunk.rows is not None:
                name = text_column(str(input), chunk.rows.columns, head.columns(), text, query=False)
                column = Column(name, "text")
            good = stream.without_bad(chunk, [] if column is None else [column], task=task, first=not done.read)
            refuse_bad(good, task)
            if good.rows is not None and column is not None:
                index.add(_records(good.rows), normalized(embed_texts(saved, task, good.rows[column.name])))
            done.read += chunk.count
            if on_progress is not None:
                on_progress(done, source.total)
        name = "" if column is None else column.name
        index.finish(run=saved.folder, model=run.model_digest(), task=task, text=name, approximate=approximate)
    return open_index(folder, saved)


def _embedding_task(saved: SavedRun) -> str:
    """Return the only task that has embeddings of its own, or the only task. Raises `UsageError`."""
    tasks = list(saved.model.heads)
    own = [task for task in tasks if saved.model.head(task).joint]
    for found in (own, tasks):
        if len(found) == 1:
            return found[0]
    raise UsageError(f"--task is missing: which of {', '.join(own or tasks)} embeds the rows?")


def _records(rows: Rows) -> Iterable[Mapping[str, Any]]:
    for _, columns in rows.batches(stream.CHUNK_ROWS):
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))
