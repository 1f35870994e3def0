"""Collate examples into padded batches of similar lengths, which may hold several tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from hft_core.batching.batch import Batch, Segment, UniqueRows, idle_batch, padded
from hft_core.batching.buckets import group_by_length, runs_within
from hft_core.batching.plan import TaskSlice
from hft_core.batching.shared_inputs import tasks_with_shared_inputs
from hft_core.data.examples import Examples, SampledExamples
from hft_core.head import OWN_LENGTH, Draw, Head


def slices_of_process(slices: Sequence[TaskSlice], rank: int, world_size: int) -> list[TaskSlice]:
    """Select the units of a step that one process computes: every `world_size`-th, counted over all slices.

    Aligned slices count once, so that a process has the same units of each of their tasks.
    """
    if world_size == 1:
        return list(slices)
    selected, total = [], 0
    starts: dict[tuple[str, int], int] = {}
    for one in slices:
        if one.order_key not in starts:
            starts[one.order_key] = total
            total += len(one.units)
        units = one.units[(rank - starts[one.order_key]) % world_size :: world_size]
        if len(units):
            selected.append(replace(one, units=units))
    return selected


@dataclass(frozen=True)
class Collator:
    """Makes batches of the examples of some tasks."""

    examples: Mapping[str, Examples]
    heads: Mapping[str, Head]
    seed: int
    """Of random masks."""
    pad: int
    """The tokenizer's padding token."""
    dedupe_inputs: bool = True
    """Whether a row that several tasks read is in a batch once, and counts once within the limits. Otherwise it is
    repeated for each task, side by side."""

    def step_batches(
        self, slices: Sequence[TaskSlice], *, max_units: int, max_tokens: int | None, one_task_per_batch: bool = False
    ) -> list[Batch]:
        """Collate one step into batches of at most `max_units` units and `max_tokens` padded tokens."""
        parts = self._step_parts(slices, max_units, max_tokens, one_task_per_batch)
        return [self._batch(sources, units) for sources, units in parts]

    def largest_batch(
        self,
        steps: Iterable[Sequence[TaskSlice]],
        max_units: int,
        max_tokens: int | None,
        one_task_per_batch: bool,
    ) -> tuple[Batch, int]:
        """Collate the one batch of some steps that has the most padded tokens; return also the most batches of one of
        these steps."""
        largest, most, batches = None, 0, 0
        for slices in steps:
            parts = self._step_parts(slices, max_units, max_tokens, one_task_per_batch)
            batches = max(batches, len(parts))
            for part in parts:
                tokens = int(part[1].lengths.max()) * int(part[1].sizes.sum())
                if tokens > most:
                    largest, most = part, tokens
        assert largest is not None, "steps have units"
        return self._batch(*largest), batches

    def _step_parts(
        self, slices: Sequence[TaskSlice], max_units: int, max_tokens: int | None, one_task_per_batch: bool
    ) -> list[tuple[Sequence[_Source], _Units]]:
        """The units of each batch of a step."""
        if not slices:
            return []
        aligned = [[one] for one in slices] if one_task_per_batch else _with_equal_units(slices)
        sources = [
            _Source(tuple(one.task for one in members), members[0].units, members[0].epoch, origin)
            for origin, group in enumerate(aligned)
            for members in ([group] if self.dedupe_inputs else [[one] for one in group])
        ]
        units = self._units(sources)
        units = units.at(np.lexsort((units.source, units.place, units.origin)))
        kinds = [str(i) if one_task_per_batch else self._kind(source.tasks[0]) for i, source in enumerate(sources)]
        kind = np.asarray(kinds)[units.source]
        groups = group_by_length(units.lengths, units.sizes, kind, max_units, max_tokens)
        return [(sources, units.at(np.sort(group))) for group in groups]

    def in_length_order(
        self, *, max_rows: int, max_tokens: int, rank: int = 0, world_size: int = 1, same_count: bool = False
    ) -> Iterator[Batch]:
        """Collate all examples for evaluation, shortest first, with the same random masks every time.

        Process `rank` makes every `world_size`-th batch; with `same_count`, and an idle one where others make one more.
        """
        leader = tasks_with_shared_inputs(self.examples, self.heads)
        batches = chain.from_iterable(
            self._consecutive(sources, max_rows, max_tokens) for sources in self._evaluation_sources(leader)
        )
        first: Batch | None = None
        index = -1
        for index, (sources, units) in enumerate(batches):
            own = index % world_size == rank
            if not own and (first is not None or not same_count):
                continue
            batch = self._batch(sources, units)
            first = first or batch
            if own:
                yield batch
        if same_count and first is not None and rank > index % world_size:
            yield idle_batch(first)

    def _evaluation_sources(self, leader: Mapping[str, str]) -> list[list[_Source]]:
        """All units of all tasks, in lists that may share batches; `leader`: the first task with the same inputs."""
        tasks = list(self.examples)
        by_kind: dict[str, list[_Source]] = {}
        for task in tasks:
            if self.dedupe_inputs and leader[task] != task:
                continue
            readers = tuple(t for t in tasks if leader[t] == task) if self.dedupe_inputs else (task,)
            units = np.arange(len(self.examples[task].lengths))
            by_kind.setdefault(self._kind(task), []).append(_Source(readers, units, -1, tasks.index(leader[task])))
        return list(by_kind.values())

    def _consecutive(
        self, sources: Sequence[_Source], max_rows: int, max_tokens: int
    ) -> Iterator[tuple[Sequence[_Source], _Units]]:
        """The units of each batch: shortest first, and those with the same inputs side by side."""
        units = self._units(sources)
        order = np.lexsort((units.source, units.place, units.origin, units.lengths))
        for run in runs_within(order, units.lengths, units.sizes, max_rows, max_tokens):
            yield sources, units.at(run)

    def _kind(self, task: str) -> str:
        """Rows of different kinds share no batch: rows without an input of its own length would read the padding of
        those that have one as theirs."""
        return " ".join(self.examples[task].own_length_inputs)

    def _units(self, sources: Sequence[_Source]) -> _Units:
        examples, counts = [self.examples[source.tasks[0]] for source in sources], [len(s.units) for s in sources]
        source = np.repeat(np.arange(len(sources)), counts)
        return _Units(
            source=source,
            place=np.concatenate([np.arange(count) for count in counts]),
            origin=np.array([each.origin for each in sources])[source],
            lengths=np.concatenate([part.lengths_of(s.units) for part, s in zip(examples, sources, strict=True)]),
            sizes=np.concatenate([part.sizes_of(s.units) for part, s in zip(examples, sources, strict=True)]),
        )

    def _batch(self, sources: Sequence[_Source], units: _Units) -> Batch:
        """Collate `units`: the rows of each source below those of the one before it."""
        drawn: list[SampledExamples] = []
        segments: list[Segment] = []
        origins: list[tuple[int, np.ndarray]] = []
        end = 0
        for index, source in enumerate(sources):
            own = source.units[units.place[units.source == index]]
            if not len(own):
                continue
            ids = self.examples[source.tasks[0]].of_units(own)
            start, first = end, len(drawn)
            for task in source.tasks:
                part = self.examples[task].draw(ids.tolist(), self.heads[task], Draw(self.seed, source.epoch))
                shared = len(drawn) > first and part.same_inputs(drawn[first])
                if not shared:
                    drawn.append(part)
                    origins.append((source.origin, ids))
                    end += len(ids)
                rows = slice(start, start + len(ids)) if shared else slice(end - len(ids), end)
                segments.append(Segment(task, rows, ids, part.targets))
        inputs = _padded_inputs(drawn, self.pad)
        return Batch(inputs, tuple(segments), unique_rows=_unique_rows(inputs, origins))


@dataclass(frozen=True)
class _Source:
    """Units of one task, or of several tasks that read the same rows."""

    tasks: tuple[str, ...]
    units: np.ndarray
    """`[n]` unit numbers, the same in each task."""
    epoch: int
    origin: int
    """Units of one number have the same inputs in all sources of one origin."""


@dataclass(frozen=True)
class _Units:
    """Units of several sources, each field `[units]`."""

    source: np.ndarray
    place: np.ndarray
    """In the units of its source."""
    origin: np.ndarray
    lengths: np.ndarray
    """The longest sequence of a unit's rows."""
    sizes: np.ndarray
    """Rows in a unit."""

    def at(self, index: np.ndarray) -> _Units:
        return _Units(*(getattr(self, field.name)[index] for field in fields(self)))


def _with_equal_units(slices: Sequence[TaskSlice]) -> list[list[TaskSlice]]:
    """Group the slices that have the same units of the same order."""
    groups: list[list[TaskSlice]] = []
    for one in slices:
        equal = (g for g in groups if g[0].order_key == one.order_key and np.array_equal(g[0].units, one.units))
        group = next(equal, None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    return groups


def _padded_inputs(drawn: Sequence[SampledExamples], pad: int) -> dict[str, Tensor]:
    """The inputs of all rows, each `[rows, seq]`; one whose length a head chose is as wide as its own longest row."""
    sequences = [sequence for part in drawn for sequence in part.sequences]
    width = max(map(len, sequences))
    mask = [[1] * len(sequence) for sequence in sequences]
    inputs = {"input_ids": padded(sequences, width, pad), "attention_mask": padded(mask, width, 0)}
    for name in dict.fromkeys(name for part in drawn for name in part.extra):
        given = (part.extra.get(name, [[]] * len(part.sequences)) for part in drawn)
        values = [row for part in given for row in part]
        own_width = name.startswith(OWN_LENGTH)
        inputs[name] = padded(values, max(map(len, values)) if own_width else width, 0)
    return inputs


def _unique_rows(inputs: Mapping[str, Tensor], blocks: Sequence[tuple[int, np.ndarray]]) -> UniqueRows | None:
    """Find the rows with the same inputs. `blocks`: the origin and the example numbers of consecutive rows.

    Only rows of one origin and number are compared, in all inputs: a head may change the sequence of an example.
    """
    origins = list(dict.fromkeys(origin for origin, _ in blocks))
    if len(origins) == len(blocks):
        return None
    origin = np.repeat([origins.index(each) for each, _ in blocks], [len(ids) for _, ids in blocks])
    ids = np.concatenate([ids for _, ids in blocks])
    _, first, number = np.unique(origin * (int(ids.max()) + 1) + ids, return_index=True, return_inverse=True)
    rows = torch.arange(len(ids))
    candidate = torch.from_numpy(first[number])
    same = torch.stack([(tensor == tensor[candidate]).all(dim=1) for tensor in inputs.values()]).all(dim=0)
    unique, of_row = torch.unique(torch.where(same, candidate, rows), return_inverse=True)
    return UniqueRows(unique, of_row) if len(unique) < len(rows) else None
