"""From a step's examples to padded batches: rows of like length go together, and one batch may hold several tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from hft_core.batching.buckets import groups, within
from hft_core.batching.plan import Part
from hft_core.batching.shared_inputs import families
from hft_core.data.examples import Drawn, Examples
from hft_core.head import OWN_LENGTH, Draw, Head, Targets


@dataclass(frozen=True)
class Segment:
    """The rows of one task in a batch; tasks of a family have the same ones where the trunk makes the same of them."""

    task: str
    rows: slice
    """Their place in the batch."""
    examples: np.ndarray
    """`[n]` their example numbers."""
    targets: Targets


@dataclass(frozen=True)
class Lower:
    """What the frozen part of the trunk made of a batch earlier."""

    hidden: Tensor
    """`[batch, seq, hidden]`, zeros at padding."""
    missing: Tensor
    """`[n]` the rows of which it is not known."""

    def to(self, device: torch.device) -> Lower:
        return Lower(_moved(self.hidden, device), self.missing.to(device))


@dataclass(frozen=True)
class Texts:
    """Which rows of a batch are one text, put in for each task that reads it."""

    first: Tensor
    """`[texts]`: the row that stands for each."""
    of_row: Tensor
    """`[batch]`: which of them each row is."""

    def to(self, device: torch.device) -> Texts:
        return Texts(_moved(self.first, device), _moved(self.of_row, device))


@dataclass(frozen=True)
class Batch:
    """Padded rows of one or more tasks."""

    inputs: dict[str, Tensor]
    """`input_ids`, `attention_mask` and further inputs, each `[batch, seq]`; padding is on the right."""
    segments: tuple[Segment, ...]
    lower: Lower | None = None
    """What need not be computed."""
    texts: Texts | None = None
    """None where no two rows are one text."""
    idle_task: str = ""
    """As whose row an idle batch, which has no segments, goes through the trunk."""

    @property
    def rows(self) -> int:
        """Rows that go through the trunk."""
        return len(self.inputs["input_ids"])

    @property
    def examples(self) -> int:
        """Examples of all tasks; a row that several of them share counts for each."""
        return sum(len(segment.examples) for segment in self.segments)

    @property
    def task_rows(self) -> list[tuple[str, slice]]:
        """Whose rows these are."""
        return [(segment.task, segment.rows) for segment in self.segments] or [(self.idle_task, slice(0, self.rows))]

    @property
    def tokens(self) -> int:
        """Real tokens, without padding; none in an idle batch."""
        return int(self.inputs["attention_mask"].sum()) if self.segments else 0

    def to(self, device: torch.device) -> Batch:
        inputs = {name: _moved(tensor, device) for name, tensor in self.inputs.items()}
        segments = tuple(
            replace(s, targets=Targets(s.targets.count, {n: t.to(device) for n, t in s.targets.tensors.items()}))
            for s in self.segments
        )
        lower, texts = self.lower and self.lower.to(device), self.texts and self.texts.to(device)
        return replace(self, inputs=inputs, segments=segments, lower=lower, texts=texts)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`. Only from pinned memory does a GPU copy while the host goes on."""
    pinned = device.type == "cuda" and tensor.device.type == "cpu"
    return (tensor.pin_memory() if pinned else tensor).to(device, non_blocking=pinned)


def idle(batch: Batch) -> Batch:
    """A row that only goes through the trunk: a pass that a process makes since others do."""
    first = {name: tensor[:1] for name, tensor in batch.inputs.items()}
    return Batch(first, (), idle_task=batch.segments[0].task)


def of_process(parts: Sequence[Part], rank: int, world: int) -> list[Part]:
    """The units of a step that process `rank` of `world` computes: every `world`-th, counted over all parts; those of
    one walk count once, so that a process has the same ones of each of its tasks."""
    if world == 1:
        return list(parts)
    found, total = [], 0
    starts: dict[tuple[str, int], int] = {}
    for part in parts:
        if part.way not in starts:
            starts[part.way] = total
            total += len(part.units)
        mine = part.units[(rank - starts[part.way]) % world :: world]
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
    share: bool = True,
) -> list[Batch]:
    """The batches of one step; `apart`: no batch holds more than one task; `share`: the units of one walk are put in
    once for all of its tasks, and count once within the limits. Without, they are put in for each, side by side."""
    if not parts:
        return []
    walks = [[part] for part in parts] if apart else _together(parts)
    pieces = [(i, piece) for i, walk in enumerate(walks) for piece in ([walk] if share else [[one] for one in walk])]
    leaders = [piece[0] for _, piece in pieces]
    lengths = np.concatenate([examples[part.task].lengths[part.units] for part in leaders])
    sizes = np.concatenate([examples[part.task].sizes[part.units] for part in leaders])
    owner = np.repeat(np.arange(len(leaders)), [len(part.units) for part in leaders])
    place = np.concatenate([np.arange(len(part.units)) for part in leaders])
    beside = np.lexsort((owner, place, np.array([i for i, _ in pieces])[owner]))
    lengths, sizes, owner, place = lengths[beside], sizes[beside], owner[beside], place[beside]
    kinds = [str(i) if apart else _kind(examples[part.task]) for i, part in enumerate(leaders)]
    kind = np.asarray(kinds)[owner]
    made = []
    for group in groups(lengths, sizes, kind, max_units, max_tokens):
        blocks = []
        for i, (walk, piece) in enumerate(pieces):
            units = piece[0].units[np.sort(place[group[owner[group] == i]])]
            if len(units):
                ids = examples[piece[0].task].of_units(units)
                blocks.append(_Block(tuple(part.task for part in piece), ids, Draw(seed, piece[0].epoch), walk))
        made.append(_assemble(blocks, examples, heads, pad))
    return made


def _together(parts: Sequence[Part]) -> list[list[Part]]:
    """The parts, those with the same units of the same walk together."""
    found: list[list[Part]] = []
    for part in parts:
        alike = (walk for walk in found if walk[0].way == part.way and np.array_equal(walk[0].units, part.units))
        walk = next(alike, None)
        if walk is None:
            found.append([part])
        else:
            walk.append(part)
    return found


def in_length_order(
    examples: Mapping[str, Examples],
    heads: Mapping[str, Head],
    *,
    seed: int,
    pad: int,
    max_rows: int,
    max_tokens: int,
    share: bool = True,
    rank: int = 0,
    world: int = 1,
    even: bool = False,
) -> Iterator[Batch]:
    """All examples of a split, shortest first, as evaluation sees them: the same masks every time. `share`: examples
    of a family are put in once for all of its tasks; without, for each, side by side. Of `world` processes, each makes
    every `world`-th batch; `even`: and an idle one where others make one more."""
    family = families(examples, heads)
    told = {task: tuple(t for t in examples if family[t] == task) if share else (task,) for task in examples}
    kinds = _of_kinds({task: examples[task] for task in examples if not share or family[task] == task})
    runs = chain.from_iterable(_runs(parts, family, max_rows, max_tokens) for parts in kinds)
    first: Batch | None = None
    turn = -1
    for turn, run in enumerate(runs):
        mine = turn % world == rank
        if not mine and (first is not None or not even):
            continue
        blocks = [
            _Block(told[task], examples[task].of_units(units), Draw(seed, -1), family[task]) for task, units in run
        ]
        batch = _assemble(blocks, examples, heads, pad)
        first = first or batch
        if mine:
            yield batch
    if even and first is not None and rank > turn % world:
        yield idle(first)


def _of_kinds(examples: Mapping[str, Examples]) -> list[dict[str, Examples]]:
    """The examples of all tasks, those that may share a batch together."""
    found: dict[str, dict[str, Examples]] = {}
    for task, part in examples.items():
        found.setdefault(_kind(part), {})[task] = part
    return list(found.values())


def _runs(
    examples: Mapping[str, Examples], family: Mapping[str, str], max_rows: int, max_tokens: int
) -> Iterator[list[tuple[str, np.ndarray]]]:
    """The units of all tasks, shortest first and those of one family side by side, in batches within the limits: some
    units of each task that has any."""
    tasks, parts = list(examples), list(examples.values())
    lengths = np.concatenate([part.lengths for part in parts])
    sizes = np.concatenate([part.sizes for part in parts])
    counts = [len(part.lengths) for part in parts]
    owner, place = np.repeat(np.arange(len(tasks)), counts), np.concatenate([np.arange(count) for count in counts])
    walk = np.array([tasks.index(family[task]) for task in tasks])[owner]
    for run in within(np.lexsort((owner, place, walk, lengths)), lengths, sizes, max_rows, max_tokens):
        split = ((task, place[run[owner[run] == i]]) for i, task in enumerate(tasks))
        yield [(task, units) for task, units in split if len(units)]


def _kind(examples: Examples) -> str:
    """Rows with inputs of their own length and rows without would each read the other's padding as theirs."""
    return " ".join(examples.own_length_inputs)


@dataclass(frozen=True)
class _Block:
    """Examples of one task, or those that a family has in common."""

    tasks: tuple[str, ...]
    ids: np.ndarray
    """`[n]` their numbers, the same in each task."""
    draw: Draw
    walk: int | str
    """Examples of one number are one text in all blocks of a walk."""


def _assemble(blocks: Sequence[_Block], examples: Mapping[str, Examples], heads: Mapping[str, Head], pad: int) -> Batch:
    """The blocks one below the other, each once for all of its tasks whose heads show the trunk the same."""
    drawn: list[Drawn] = []
    made: list[Segment] = []
    origins: list[tuple[int | str, np.ndarray]] = []
    end = 0
    for block in blocks:
        start, size, first = end, len(block.ids), len(drawn)
        for task in block.tasks:
            part = examples[task].draw(block.ids.tolist(), heads[task], block.draw)
            shared = len(drawn) > first and part.has_inputs_of(drawn[first])
            if not shared:
                drawn.append(part)
                origins.append((block.walk, block.ids))
                end += size
            rows = slice(start, start + size) if shared else slice(end - size, end)
            made.append(Segment(task, rows, block.ids, part.targets))
    sequences = [sequence for part in drawn for sequence in part.sequences]
    width = max(map(len, sequences))
    mask = [[1] * len(sequence) for sequence in sequences]
    inputs = {"input_ids": padded(sequences, width, pad), "attention_mask": padded(mask, width, 0)}
    for name in dict.fromkeys(name for part in drawn for name in part.extra):
        given = (part.extra.get(name, [[]] * len(part.sequences)) for part in drawn)
        values = [row for part in given for row in part]
        own_width = name.startswith(OWN_LENGTH)
        inputs[name] = padded(values, max(map(len, values)) if own_width else width, 0)
    return Batch(inputs, tuple(made), texts=_texts(inputs, origins))


def _texts(inputs: Mapping[str, Tensor], origins: Sequence[tuple[int | str, np.ndarray]]) -> Texts | None:
    """The texts of a batch, of whose rows `origins` tells in their order: a walk, and the examples' numbers in it.
    Those of one number are a text where their inputs are the same; a head may show the trunk something else."""
    walks = list(dict.fromkeys(walk for walk, _ in origins))
    if len(walks) == len(origins):
        return None
    walk = np.repeat([walks.index(each) for each, _ in origins], [len(ids) for _, ids in origins])
    ids = np.concatenate([ids for _, ids in origins])
    _, first, number = np.unique(walk * (int(ids.max()) + 1) + ids, return_index=True, return_inverse=True)
    rows = torch.arange(len(ids))
    stand_in = torch.from_numpy(first[number])
    same = torch.stack([(tensor == tensor[stand_in]).all(dim=1) for tensor in inputs.values()]).all(dim=0)
    found, of_row = torch.unique(torch.where(same, stand_in, rows), return_inverse=True)
    return Texts(found, of_row) if len(found) < len(rows) else None


def padded(values: Iterable[Sequence[int] | np.ndarray], width: int, filler: int) -> Tensor:
    """`[rows, width]`: the values of each row, and `filler` behind them."""
    rows = list(values)
    table = np.full((len(rows), width), filler, dtype=np.int64)
    for row, sequence in zip(table, rows, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(table)
