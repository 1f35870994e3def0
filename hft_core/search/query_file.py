"""Search for each row of a data file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hft_core.data import stream
from hft_core.head import Column
from hft_core.predict import answer_file
from hft_core.predict.answer_file import Progress
from hft_core.predict.answer_lines import with_input
from hft_core.predict.bulk import OnProgress, refuse_bad
from hft_core.predict.prediction import head_of
from hft_core.runtime import signals
from hft_core.runtime.files import file_hash
from hft_core.search.index import CANDIDATES, Index
from hft_core.search.index_folder import FACTS_FILE
from hft_core.search.text_column import text_column


def search_file(
    index: Index,
    input: str | Path,
    output: str | Path,
    k: int = 5,
    *,
    text: str | None = None,
    rerank: str | None = None,
    candidates: int = CANDIDATES,
    on_progress: OnProgress | None = None,
) -> Progress:
    """Search for the text of each row of a data file, and write the row's columns and `results` to `output`.

    `text`: the column of the texts; else that of the task's queries, or the only one. The suffix of `output` chooses
    its format, and an interrupted call is resumed, as by `predict_file`. Raises `DataError` for the first row without a
    text, `UsageError` when answers of something else are in the way, and `RunError` where a file cannot be written.
    """
    task = index.facts.task
    columns = head_of(index.saved, task).columns()
    source = stream.open_stream(str(input), task=task)
    of: dict[str, Any] = {
        "index": file_hash(index.folder / FACTS_FILE),
        "input": source.digest,
        "search": f"k {k}, text {text}, rerank {rerank}, candidates {candidates}",
    }
    with answer_file.opened(Path(output), None, of) as answers:
        column: Column | None = None
        for chunk in source.chunks(answers.done.read):
            signals.check()
            if column is None and chunk.rows is not None:
                column = Column(text_column(str(input), chunk.rows.columns, columns, text, query=True), "text")
            good = stream.without_bad(chunk, [] if column is None else [column], task=task, first=not answers.done.read)
            refuse_bad(good, task)
            if good.rows is not None and column is not None:
                hits = index.search(good.rows[column.name], k, rerank=rerank, candidates=candidates)
                lines = ({"results": [hit.to_json() for hit in own]} for own in hits)
                answers.add(with_input(good.rows, lines), (), chunk.count)
            if on_progress is not None:
                on_progress(answers.done, source.total)
        answers.finish()
    return answers.done
