"""Read json files: one list of objects, or SQuAD's articles as one row a question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hft_core.data.readers.json_record import as_record, kind, parse
from hft_core.data.readers.lines import read_text
from hft_core.data.readers.records import NumberedRecords, pack
from hft_core.data.rows import Rows, Source
from hft_core.errors import DataError


def read(path: str) -> Rows:
    """Read a list of objects, or a file of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250). Raises `DataError`."""
    return pack(records(path), Source(path, "row"))


def records(path: str) -> NumberedRecords:
    """Yield the objects and their numbers from 1. Raises `DataError`."""
    text = read_text(path)
    if not text.strip():
        raise DataError(f"{path}: the file is empty, expected a list of objects")
    records = parse(text, path)
    if isinstance(records, dict) and isinstance(records.get("data"), list):
        records = list(_squad_rows(records["data"], path))
    if not isinstance(records, list):
        raise DataError(f"{path}: expected a list of objects, found {kind(records)}")
    for number, record in enumerate(records, start=1):
        yield number, as_record(record, f"{path}, row {number}")


def _squad_rows(articles: list[Any], path: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each question, with the columns of the data set on the hub: `id`, `title`, `context`, `question`,
    `answers`. Raises `DataError` for an article of another form."""
    for number, article in enumerate(articles, start=1):
        try:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    answers = [(answer["text"], answer["answer_start"]) for answer in asked.get("answers", ())]
                    yield {
                        "id": asked.get("id"),
                        "title": article.get("title"),
                        "context": paragraph["context"],
                        "question": asked["question"],
                        "answers": {"text": [text for text, _ in answers], "answer_start": [at for _, at in answers]},
                    }
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}, article {number} of 'data': expected SQuAD's form, paragraphs with a context and qas "
                f"({type(error).__name__}: {error}); other files hold one list of objects"
            ) from None
