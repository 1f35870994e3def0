"""From a step's examples to padded batches: rows of like length go together, and one batch may hold several tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from hft_core.examples import Drawn, Examples
from hft_core.head import OWN_LENGTH, Draw, Head, Targets
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


def of_process(parts: Sequence[Part], rank: int, world: int) -> list[Part]:
    """The units of a step that process `rank` of `world` computes: every `world`-th, counted over all parts."""
    if world == 1:
        return list(parts)
    found, before = [], 0
    for part in parts:
        mine = part.units[(rank - before) % world :: world]
        before += len(part.units)
        if len(mine):
            found.append(replace(part, units=mine))
    return found


def batches_of(
    parts: Sequence[Part],
    examples: Mapping[str, Examples],
    heads: Mapping[str, Head],
    *,
    seed: int,
    pad: int,
    max_units: int,
    max_tokens: int | None,
    apart: bool,
) -> list[Batch]:
    """The batches of one step; `apart`: no batch holds more than one task."""
    if not parts:
        return []
    lengths = np.concatenate([examples[part.task].lengths[part.units] for part in parts])
    sizes = np.concatenate([examples[part.task].sizes[part.units] for part in parts])
    owner = np.repeat(np.arange(len(parts)), [len(part.units) for part in parts])
    # Rows with inputs of their own length and rows without would each read the other's padding as theirs.
    kinds = [str(i) if apart else " ".join(examples[part.task].own_length_inputs) for i, part in enumerate(parts)]
    kind = np.asarray(kinds)[owner]
    place = np.concatenate([np.arange(len(part.units)) for part in parts])
    made = []
    for group in _groups(lengths, sizes, kind, max_units, max_tokens):
        segments = []
        for i, part in enumerate(parts):
            units = part.units[np.sort(place[group[owner[group] == i]])]
            if len(units):
                segments.append((part.task, examples[part.task].of_units(units), Draw(seed, part.epoch)))
        made.append(_assemble(segments, examples, heads, pad))
    return made


def in_length_order(
    task: str,
    examples: Examples,
    head: Head,
    *,
    seed: int,
    pad: int,
    max_rows: int,
    max_tokens: int,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """All examples of a split, shortest first, as evaluation sees them: the same masks every time. Of `world`
    processes, each makes every `world`-th batch."""
    order = np.argsort(examples.lengths, kind="stable")
    runs = _within(order, examples.lengths, examples.sizes, max_rows, max_tokens)
    for units in islice(runs, rank, None, world):
        drawn = (task, examples.of_units(units), Draw(seed, -1))
        yield _assemble([drawn], {task: examples}, {task: head}, pad)


def _groups(
    lengths: np.ndarray, sizes: np.ndarray, kind: np.ndarray, max_units: int, max_tokens: int | None
) -> Iterator[np.ndarray]:
    """Divide the units into groups of one kind that are padded together, within the limits."""
    for units in (np.flatnonzero(kind == one) for one in dict.fromkeys(kind.tolist())):
        units = units[np.argsort(lengths[units], kind="stable")]
        for group in _cut(units, lengths, sizes):
            rows = max(1, max_tokens // int(lengths[group[-1]])) if max_tokens else None
            yield from _even(group, sizes[group], max_units, rows)


def _even(group: np.ndarray, sizes: np.ndarray, max_units: int, max_rows: int | None) -> Iterator[np.ndarray]:
    """The group in about as few parts within the limits as there can be, of about equal size; a unit of more rows than
    `max_rows` is a part of its own."""
    largest = int(sizes.max())
    limit = max_units if max_rows is None else min(max_units, max(1, max_rows // largest))
    if max_rows is None or largest == int(sizes.min()) or len(group) <= limit:
        yield from np.array_split(group, -(-len(group) // limit))
        return
    start, rows = 0, 0
    for stop, size in enumerate(sizes.tolist()):
        if stop > start and (stop - start == max_units or rows + size > max_rows):
            yield group[start:stop]
            start, rows = stop, 0
        rows += size
    yield group[start:]


def _within(
    order: np.ndarray, lengths: np.ndarray, sizes: np.ndarray, max_rows: int, max_tokens: int
) -> Iterator[np.ndarray]:
    """Consecutive runs of units, each as long as the limits allow and at least one unit."""
    start, rows = 0, 0
    for stop, unit in enumerate(order):
        size = int(sizes[unit])
        if stop > start and (rows + size > max_rows or lengths[unit] * (rows + size) > max_tokens):
            yield order[start:stop]
            start, rows = stop, 0
        rows += size
    if len(order):
        yield order[start:]


def _cut(units: np.ndarray, lengths: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Cut `units`, sorted by length, where dividing saves more padding than another pass costs.

    Dynamic programming over the distinct lengths: the cost of a group is its padded size plus `CALL_TOKENS`.
    """
    steps = -(-lengths[units] // LENGTH_STEP) * LENGTH_STEP
    ends = np.append(np.flatnonzero(np.diff(steps)) + 1, len(units))
    starts = np.concatenate([[0], ends[:-1]])
    rows = np.concatenate([[0], np.cumsum(sizes[units])])
    best: list[float] = [0.0]
    came_from: list[int] = [0]
    for j, end in enumerate(ends):
        costs = [best[i] + (rows[end] - rows[starts[i]]) * steps[end - 1] + CALL_TOKENS for i in range(j + 1)]
        came_from.append(int(np.argmin(costs)))
        best.append(costs[came_from[-1]])
    groups = []
    j = len(ends)
    while j > 0:
        groups.append(units[starts[came_from[j]] : ends[j - 1]])
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
        values = [row for part in given for row in part]
        own_width = name.startswith(OWN_LENGTH)
        inputs[name] = _padded(values, max(map(len, values)) if own_width else width, 0)
    return Batch(inputs, tuple(made))


def _padded(values: Sequence[Sequence[int]], width: int, filler: int) -> Tensor:
    table = np.full((len(values), width), filler, dtype=np.int64)
    for row, sequence in zip(table, values, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(table)
