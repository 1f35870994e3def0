"""From a step's examples to padded batches: rows of like length go together, and one batch may hold several tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hft_core.examples import Drawn, Examples
from hft_core.head import Draw, Head, Targets
from hft_core.plan import Part

CALL_TOKENS = 256
"""What one more pass through the trunk costs, in tokens: below it, padding is cheaper than dividing."""

LENGTH_STEP = 8
"""Lengths are compared in steps of this many tokens when batches are cut."""


@dataclass(frozen=True)
class Segment:
    """The rows of one task in a batch."""

    task: str
    rows: slice
    """Their place in the batch."""
    examples: np.ndarray
    """`[n]` their example numbers."""
    targets: Targets


@dataclass(frozen=True)
class Batch:
    """Padded rows of one or more tasks."""

    inputs: dict[str, Tensor]
    """`input_ids`, `attention_mask` and further inputs, each `[batch, seq]`; padding is on the right."""
    segments: tuple[Segment, ...]

    @property
    def rows(self) -> int:
        return len(self.inputs["input_ids"])

    @property
    def tokens(self) -> int:
        """Real tokens, without padding."""
        return int(self.inputs["attention_mask"].sum())

    def to(self, device: torch.device) -> Batch:
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        segments = tuple(
            replace(s, targets=Targets(s.targets.count, {n: t.to(device) for n, t in s.targets.tensors.items()}))
            for s in self.segments
        )
        return Batch(inputs, segments)


def batches_of(
    parts: Sequence[Part],
    examples: Mapping[str, Examples],
    heads: Mapping[str, Head],
    *,
    seed: int,
    pad: int,
    max_rows: int,
    max_tokens: int | None,
    apart: bool,
) -> list[Batch]:
    """The batches of one step; `apart`: no batch holds more than one task."""
    lengths = np.concatenate([examples[part.task].lengths[part.examples] for part in parts])
    owner = np.repeat(np.arange(len(parts)), [len(part.examples) for part in parts])
    place = np.concatenate([np.arange(len(part.examples)) for part in parts])
    made = []
    for group in _groups(lengths, owner, max_rows, max_tokens, apart):
        segments = []
        for i, part in enumerate(parts):
            ids = part.examples[np.sort(place[group[owner[group] == i]])]
            if len(ids):
                segments.append((part.task, ids, Draw(seed, part.epoch)))
        made.append(_assemble(segments, examples, heads, pad))
    return made


def in_length_order(
    task: str, examples: Examples, head: Head, *, seed: int, pad: int, max_rows: int, max_tokens: int
) -> Iterator[Batch]:
    """All examples of a split, shortest first, as evaluation sees them: the same masks every time."""
    order = np.argsort(examples.lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        while (
            stop < len(order)
            and stop - start < max_rows
            and examples.lengths[order[stop]] * (stop - start + 1) <= max_tokens
        ):
            stop += 1
        yield _assemble([(task, order[start:stop], Draw(seed, -1))], {task: examples}, {task: head}, pad)
        start = stop


def _groups(
    lengths: np.ndarray, owner: np.ndarray, max_rows: int, max_tokens: int | None, apart: bool
) -> Iterator[np.ndarray]:
    """Divide the rows into groups that are padded together, within the limits."""
    for rows in [np.flatnonzero(owner == i) for i in np.unique(owner)] if apart else [np.arange(len(lengths))]:
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        for group in _cut(rows, lengths):
            longest = int(lengths[group[-1]])
            limit = min(max_rows, max(1, max_tokens // longest)) if max_tokens else max_rows
            yield from np.array_split(group, -(-len(group) // limit))


def _cut(rows: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Cut `rows`, sorted by length, where dividing saves more padding than another pass costs.

    Dynamic programming over the distinct lengths: the cost of a group is its padded size plus `CALL_TOKENS`.
    """
    steps = -(-lengths[rows] // LENGTH_STEP) * LENGTH_STEP
    ends = np.append(np.flatnonzero(np.diff(steps)) + 1, len(rows))
    starts = np.concatenate([[0], ends[:-1]])
    best: list[float] = [0.0]
    came_from: list[int] = [0]
    for j, end in enumerate(ends):
        costs = [best[i] + (end - starts[i]) * steps[end - 1] + CALL_TOKENS for i in range(j + 1)]
        came_from.append(int(np.argmin(costs)))
        best.append(costs[came_from[-1]])
    groups = []
    j = len(ends)
    while j > 0:
        groups.append(rows[starts[came_from[j]] : ends[j - 1]])
        j = came_from[j]
    return groups[::-1]


def _assemble(
    segments: Sequence[tuple[str, np.ndarray, Draw]],
    examples: Mapping[str, Examples],
    heads: Mapping[str, Head],
    pad: int,
) -> Batch:
    drawn: list[Drawn] = []
    made: list[Segment] = []
    start = 0
    for task, ids, draw in segments:
        part = examples[task].draw(ids.tolist(), heads[task], draw)
        drawn.append(part)
        made.append(Segment(task, slice(start, start + len(ids)), ids, part.targets))
        start += len(ids)
    sequences = [sequence for part in drawn for sequence in part.sequences]
    width = max(map(len, sequences))
    mask = [[1] * len(sequence) for sequence in sequences]
    inputs = {"input_ids": _padded(sequences, width, pad), "attention_mask": _padded(mask, width, 0)}
    for name in dict.fromkeys(name for part in drawn for name in part.extra):
        given = (part.extra.get(name, [[]] * len(part.sequences)) for part in drawn)
        inputs[name] = _padded([values for part in given for values in part], width, 0)
    return Batch(inputs, tuple(made))


def _padded(values: Sequence[Sequence[int]], width: int, filler: int) -> Tensor:
    table = np.full((len(values), width), filler, dtype=np.int64)
    for row, sequence in zip(table, values, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(table)
