"""Hold an index with the served run that made it, and search for many requests at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hft_core.errors import UsageError
from hft_core.runtime.run_folder import RunFolder
from hft_core.search.index import Hit, Index, bound
from hft_core.search.index_folder import read_facts
from hft_core.serve import schema
from hft_core.serve.batcher import Job
from hft_core.serve.served_run import ServedRun


@dataclass(frozen=True)
class Searching:
    """The texts of a request, and how they are searched for."""

    texts: Sequence[str]
    k: int
    rerank: str | None
    candidates: int


@dataclass(frozen=True)
class ServedIndex:
    """An index and the served run that made it; one thread at a time uses them."""

    name: str
    run: ServedRun
    index: Index

    def search(self, jobs: Sequence[Job]) -> list[list[list[Hit]]]:
        """Return the hits of each text of each job. A job's `work` is a `Searching`; all re-rank alike."""
        asked: list[Searching] = [job.work for job in jobs]
        texts = [text for one in asked for text in one.texts]
        k, first = max(one.k for one in asked), asked[0]
        found = iter(self.index.search(texts, k, rerank=first.rerank, candidates=first.candidates))
        return [[next(found)[: one.k] for _ in one.texts] for one in asked]

    def info(self) -> schema.IndexInfo:
        """Describe the index."""
        facts = self.index.facts
        return schema.IndexInfo(
            name=self.name,
            run=self.run.name,
            task=facts.task,
            text=facts.text,
            columns=[*facts.columns],
            rows=facts.rows,
        )


def open_indexes(folders: dict[str, Path], runs: Sequence[ServedRun]) -> dict[str, ServedIndex]:
    """Open indexes by name, each with the run that made it. Raises `UsageError` where none of the runs did."""
    digests = {RunFolder(run.saved.folder).model_digest(): run for run in reversed(runs)} if folders else {}
    opened = {}
    for name, folder in folders.items():
        facts = read_facts(folder)
        if facts.model not in digests:
            served = ", ".join(str(run.saved.folder) for run in runs)
            raise UsageError(f"--index {folder}: it was made with another run than {served}: expected {facts.run}")
        run = digests[facts.model]
        opened[name] = ServedIndex(name, run, bound(folder, facts, run.saved))
    return opened
