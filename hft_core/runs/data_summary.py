"""Summarize how the data of each task was understood: columns, labels with their counts, facts, lengths in tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hft_core.data.cells import as_label, expected
from hft_core.data.examples import Examples
from hft_core.data.rows import CHECK_BATCH, Rows
from hft_core.head import Column, Head
from hft_core.runs import assembly
from hft_core.runs.assembly import BuiltRun
from hft_core.runs.learned_facts import facts_of


@dataclass(frozen=True, kw_only=True)
class TokenLengths:
    """How long the texts of a split are, in tokens, special ones included."""

    shortest: int
    median: int
    longest: int
    cut: float
    """Share of texts that fill `max_length`, and were cut unless they fit exactly; 0 for a head that divides them."""


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """What was understood of a task's data."""

    head: str
    columns: dict[str, str]
    """What each column that the head reads holds; a target is marked."""
    facts: dict[str, Any]
    """What the head learned from the training rows, except the names of labels."""
    labels: dict[str, dict[str, int]]
    """By label and split, the number of rows that have it; of tags, by chunk type."""
    max_length: int
    """Tokens of a text, at most."""
    lengths: dict[str, TokenLengths]
    """By split."""


def data_of(built: BuiltRun) -> dict[str, TaskData]:
    """Summarize the data of each task."""
    facts = facts_of(built.heads)
    return {
        task: TaskData(
            head=built.resolved.heads[task].entry.name,
            columns={column.name: _held(column) for column in head.columns()},
            facts={name: value for name, value in facts[task].items() if name != "labels"},
            labels=_labels(head, built.rows[task]),
            max_length=assembly.max_length(built.resolved, task, built.model),
            lengths={
                split: _lengths(examples[task], head, assembly.max_length(built.resolved, task, built.model))
                for split, examples in built.examples.items()
                if task in examples
            },
        )
        for task, head in built.heads.items()
    }


def _held(column: Column) -> str:
    return expected(column) + (" (target)" if column.target else "")


def _labels(head: Head, splits: Mapping[str, Rows]) -> dict[str, dict[str, int]]:
    """Count the rows of each label, in the order of the head's labels, then of their names."""
    counts = {split: _counts(head, rows) for split, rows in splits.items()}
    found = {name for counted in counts.values() for name in counted}
    known = head.facts.get("labels")
    order: Sequence[str] = list(known) if isinstance(known, list) and found <= set(known) else sorted(found)
    return {name: {split: counted[name] for split, counted in counts.items()} for name in order} if found else {}


def _counts(head: Head, rows: Rows) -> Counter[str]:
    columns = [c for c in head.columns() if c.target and c.kind == "label" and c.classes and rows.has(c.name)]
    classes_of = assembly.classes_of(head)
    counts: Counter[str] = Counter()
    for _, batch in rows.batches(CHECK_BATCH, [column.name for column in columns]) if columns else ():
        for values in zip(*batch.values(), strict=True):
            row = dict(zip(batch, values, strict=True))
            single = {as_label(row[column.name]) for column in columns if not column.many}
            counts.update(single | set(classes_of(row) if classes_of is not None else ()))
    return counts


def _lengths(examples: Examples, head: Head, limit: int) -> TokenLengths:
    lengths = examples.lengths
    return TokenLengths(
        shortest=int(lengths.min(initial=limit)),
        median=int(np.median(lengths)) if len(lengths) else 0,
        longest=int(lengths.max(initial=0)),
        cut=0.0 if head.chunks_long_texts or not len(lengths) else float((lengths >= limit).mean()),
    )
