"""Write and read the files of an index: vectors, rows, and `index.json`, which says what they are of.

- `vectors.npy`: float32 `[rows, d]`, of length 1
- `rows.jsonl`: the rows by column, as they were given; `offsets.npy`: where each begins, int64 `[rows + 1]`
- `graph.faiss`: only where the search is approximate
- `index.json`: run, task and columns, and size and SHA-256 of the other files; written last
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hft_core.errors import RunError, UsageError
from hft_core.file_guard import folder_problem
from hft_core.runtime import output_probe, run_manifest
from hft_core.runtime.files import read_json, write_json
from hft_core.runtime.new_folder import new_folder
from hft_core.sanitize import finite, json_text
from hft_core.search.nearest import Graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
FACTS_FILE, VECTORS_FILE, ROWS_FILE, OFFSETS_FILE, GRAPH_FILE = (
    "index.json",
    "vectors.npy",
    "rows.jsonl",
    "offsets.npy",
    "graph.faiss",
)


@dataclass(frozen=True, kw_only=True)
class IndexFacts:
    """What an index is of."""

    run: str
    """The run's folder when the index was made."""
    model: str
    """`RunFolder.model_digest` of the run."""
    task: str
    text: str
    """The column that was embedded."""
    columns: tuple[str, ...]
    """Those of the rows."""
    rows: int
    size: int
    """Numbers of a vector."""
    approximate: bool


class IndexWriter:
    """An index that is being written, row by row, into a folder that has another name until it is whole."""

    def __init__(self, partial: Path, rows: int) -> None:
        """`rows`: how many there will be."""
        self._partial, self._rows, self._written = partial, rows, 0
        self._lines = (partial / ROWS_FILE).open("wb")
        self._offsets = np.zeros(rows + 1, np.int64)
        self._columns: dict[str, None] = {}
        self._vectors: NDArray[np.float32] | None = None

    def add(self, rows: Iterable[Mapping[str, Any]], vectors: NDArray[np.float32]) -> None:
        """Write the next rows and their vectors `[n, d]`, which have length 1."""
        if self._vectors is None:
            shape = (self._rows, vectors.shape[1])
            self._vectors = np.lib.format.open_memmap(self._partial / VECTORS_FILE, "w+", np.dtype("<f4"), shape)
        self._vectors[self._written : self._written + len(vectors)] = vectors
        for row in rows:
            self._columns |= dict.fromkeys(row)
            self._written += 1
            self._offsets[self._written] = self._offsets[self._written - 1] + self._lines.write(
                f"{json_text(finite(row), default=str)}\n".encode()
            )

    def finish(self, *, run: Path, model: str, task: str, text: str, approximate: bool) -> None:
        """Write what is left. Raises `UsageError` where there were not as many rows as was said."""
        self.close()
        if self._vectors is None or self._written != self._rows:
            raise UsageError(f"{self._written} of {self._rows} rows came: the file changed while it was read")
        np.save(self._partial / OFFSETS_FILE, self._offsets)
        names = [VECTORS_FILE, ROWS_FILE, OFFSETS_FILE]
        if approximate:
            Graph.build(self._vectors).write(self._partial / GRAPH_FILE)
            names.append(GRAPH_FILE)
        rows, size = self._vectors.shape
        self._vectors.flush()  # type: ignore[attr-defined]  # a memmap
        facts = IndexFacts(
            run=str(run.absolute()),
            model=model,
            task=task,
            text=text,
            columns=tuple(self._columns),
            rows=rows,
            size=size,
            approximate=approximate,
        )
        files = {name: run_manifest.facts_of(self._partial / name) for name in names}
        write_json(self._partial / FACTS_FILE, {"format": FORMAT, **asdict(facts), "files": files})

    def close(self) -> None:
        """Close the file of rows."""
        self._lines.close()


@contextmanager
def new_index(folder: Path, rows: int) -> Iterator[IndexWriter]:
    """Write an index inside, which is in `folder` once the block has ended without an error.

    Raises `UsageError` where `folder` is there already, and `RunError` where nothing can be written.
    """
    check_unused(folder)
    try:
        with new_folder(folder) as partial:
            writer = IndexWriter(partial, rows)
            try:
                yield writer
            finally:
                writer.close()
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror or error}") from error


def check_unused(folder: Path) -> None:
    """Raise `UsageError` for what cannot be the name of a new folder."""
    output_probe.check_path(folder)
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"--out {folder} is there already: expected the name of a new folder")


def read_facts(folder: Path) -> IndexFacts:
    """Return what the index is of, after its files were checked. Raises `UsageError` for a folder that holds no whole
    index."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such index folder; 'hft index' makes one")
    path = folder / FACTS_FILE
    if not path.exists():
        raise UsageError(f"{folder} is no index, or was not wholly copied: it has no {FACTS_FILE}")
    if problem := folder_problem(folder):
        raise UsageError(problem)
    try:
        facts, listed, format = _parse(read_json(path)), run_manifest.read(path), read_json(path).get("format")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} cannot be read ({' '.join(str(error).split())}): {_ANEW}") from error
    if format != FORMAT:
        raise UsageError(f"{path} has the format {format!r}, expected {FORMAT}: {_ANEW}")
    for name in (VECTORS_FILE, ROWS_FILE, OFFSETS_FILE, *((GRAPH_FILE,) if facts.approximate else ())):
        problem = run_manifest.problem_of(folder / name, listed[name]) if name in listed else "is not listed"
        if problem:
            raise UsageError(f"{folder} is damaged: {name} {problem}: {_ANEW}")
    return facts


_ANEW = "make it anew with 'hft index'"


def _parse(value: Any) -> IndexFacts:
    """Raises `KeyError`, `TypeError` or `ValueError` for another shape."""
    texts = {name: str(value[name]) for name in ("run", "model", "task", "text")}
    rows, size, approximate = value["rows"], value["size"], value["approximate"]
    if not (isinstance(rows, int) and isinstance(size, int) and isinstance(approximate, bool)):
        raise TypeError("rows and size are no numbers, or approximate is not true or false")
    columns = tuple(map(str, value["columns"]))
    return IndexFacts(**texts, columns=columns, rows=rows, size=size, approximate=approximate)


class IndexFiles:
    """The files of an index that was checked, read where they lie."""

    def __init__(self, folder: Path, facts: IndexFacts) -> None:
        """Raises `UsageError` for files that do not fit the facts."""
        try:
            self.vectors: NDArray[np.float32] = np.load(folder / VECTORS_FILE, mmap_mode="r")
            self._offsets: NDArray[np.int64] = np.load(folder / OFFSETS_FILE)
        except (OSError, ValueError) as error:
            raise UsageError(f"{folder} is damaged: {' '.join(str(error).split())}: {_ANEW}") from error
        shapes = (self.vectors.shape, self._offsets.shape)
        if shapes != ((facts.rows, facts.size), (facts.rows + 1,)):
            raise UsageError(f"{folder} is damaged: it has vectors and rows of other numbers than it says: {_ANEW}")
        self._rows, self._graph = folder / ROWS_FILE, folder / GRAPH_FILE
        if self.vectors.dtype != np.float32 or not self._places_are_sound():
            raise UsageError(f"{folder} is damaged: {OFFSETS_FILE} is not where the rows of {ROWS_FILE} are: {_ANEW}")

    def graph(self) -> Graph:
        """Read the graph. Raises `UsageError`."""
        try:
            graph = Graph.read(self._graph)
        except RuntimeError as error:
            raise UsageError(f"{self._graph} cannot be read by faiss ({str(error)[-200:]}): {_ANEW}") from error
        if graph.shape != self.vectors.shape:
            raise UsageError(f"{self._graph} is of other vectors than {VECTORS_FILE}: {_ANEW}")
        return graph

    def rows(self, numbers: Iterable[int]) -> dict[int, dict[str, Any]]:
        """Return rows by number, from 0."""
        found = {}
        with self._rows.open("rb") as file:
            for number in sorted(set(numbers)):
                file.seek(self._offsets[number])
                found[number] = self._row(file.read(int(self._offsets[number + 1] - self._offsets[number])), number)
        return found

    def _row(self, line: bytes, number: int) -> dict[str, Any]:
        """Read a row. Raises `UsageError`, whatever the line holds."""
        try:
            row = json.loads(line.decode("utf-8"))
            if isinstance(row, dict):
                return row
        except (ValueError, RecursionError):
            pass
        raise UsageError(f"{self._rows}, line {number + 1} is no row: {_ANEW}")

    def _places_are_sound(self) -> bool:
        """Tell whether the places of rows follow one another from the first byte of their file to its last."""
        places = self._offsets
        if places.dtype != np.int64 or places[0] != 0 or places[-1] != self._rows.stat().st_size:
            return False
        return bool((np.diff(places) > 0).all())
