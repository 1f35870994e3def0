"""Print how the data of each task was understood; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hft_core.cli.terminal import print_table, say

if TYPE_CHECKING:
    from hft_core.runs.data_summary import TaskData, TokenLengths

SHOWN = 20
"""Labels of a task that are printed."""
WIDTH = 60
"""Characters of a label that are printed."""


def print_data(data: Mapping[str, TaskData]) -> None:
    """Print the columns, facts, labels and lengths of each task."""
    for name, task in data.items():
        say()
        columns = "; ".join(f"'{column}': {held}" for column, held in task.columns.items())
        say(f"task '{name}' ({task.head}) reads {columns}")
        if task.facts:
            say(f"learned: {', '.join(f'{fact}: {value}' for fact, value in task.facts.items())}")
        for split, lengths in task.lengths.items():
            say(f"tokens of {split}: {_lengths(lengths, task.max_length)}")
        if task.labels:
            _print_labels(task)


def _lengths(lengths: TokenLengths, limit: int) -> str:
    cut = f", {lengths.cut:.1%} of the texts cut at {limit}" if lengths.cut else ""
    return f"{lengths.shortest} to {lengths.longest}, median {lengths.median}{cut}"


def _print_labels(task: TaskData) -> None:
    splits = list(next(iter(task.labels.values())))
    names = sorted(task.labels, key=lambda name: -sum(task.labels[name].values()))[:SHOWN]
    chosen = [name for name in task.labels if name in names]  # in the order of their ids
    rows = [(_shortened(name), *(task.labels[name][split] for split in splits)) for name in chosen]
    print_table(("label", *(f"rows: {split}" for split in splits)), rows)
    if len(task.labels) > SHOWN:
        say(f"and {len(task.labels) - SHOWN} more labels with fewer rows")


def _shortened(label: str) -> str:
    shown = label if label.isprintable() else ascii(label)[1:-1]
    return shown if len(shown) <= WIDTH else shown[: WIDTH - 1] + "…"
