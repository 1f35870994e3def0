"""Define a batch: padded rows of one or more tasks, and what is known of their hidden states."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hft_core.head import Targets


@dataclass(frozen=True)
class Segment:
    """The rows of one task in a batch. Tasks with shared inputs may have the same rows."""

    task: str
    rows: slice
    """Their place in the batch."""
    examples: np.ndarray
    """`[n]` their example numbers."""
    targets: Targets


@dataclass(frozen=True)
class CachedHidden:
    """Hidden states of a batch after the frozen layers, as far as they are cached."""

    hidden: Tensor
    """`[batch, seq, hidden]`, zeros at padding."""
    missing: Tensor
    """`[n]`: the rows that are not cached."""

    def to(self, device: torch.device) -> CachedHidden:
        return CachedHidden(_to(self.hidden, device), self.missing.to(device))


@dataclass(frozen=True)
class UniqueRows:
    """Which rows of a batch have the same inputs, repeated for each task that reads them."""

    first: Tensor
    """`[unique]`: the first row with each distinct input."""
    of_row: Tensor
    """`[batch]`: the index into `first` of each row."""

    def to(self, device: torch.device) -> UniqueRows:
        return UniqueRows(_to(self.first, device), _to(self.of_row, device))


@dataclass(frozen=True)
class Batch:
    """Padded rows of one or more tasks.

    An idle batch has one row and no segments: it makes the pass through a sharded trunk that other processes make (see
    `idle_batch`), and adds nothing to a loss.
    """

    inputs: dict[str, Tensor]
    """`input_ids`, `attention_mask` and further inputs, each `[batch, seq]`; padding is on the right."""
    segments: tuple[Segment, ...]
    cached: CachedHidden | None = None
    """None without an activation cache."""
    unique_rows: UniqueRows | None = None
    """None where no two rows have the same inputs."""
    idle_task: str = ""
    """The task of the row of an idle batch, for strategies that route rows by task."""

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
        """The task of each range of rows."""
        return [(segment.task, segment.rows) for segment in self.segments] or [(self.idle_task, slice(0, self.rows))]

    @property
    def tokens(self) -> int:
        """Real tokens, without padding; none in an idle batch."""
        return int(self.inputs["attention_mask"].sum()) if self.segments else 0

    def to(self, device: torch.device) -> Batch:
        inputs = {name: _to(tensor, device) for name, tensor in self.inputs.items()}
        segments = tuple(
            replace(s, targets=Targets(s.targets.count, {n: t.to(device) for n, t in s.targets.tensors.items()}))
            for s in self.segments
        )
        cached = self.cached and self.cached.to(device)
        unique_rows = self.unique_rows and self.unique_rows.to(device)
        return replace(self, inputs=inputs, segments=segments, cached=cached, unique_rows=unique_rows)


def idle_batch(batch: Batch) -> Batch:
    """Return an idle batch with the first row of `batch`: under FSDP each pass through the trunk is a collective, so a
    process with fewer batches than another makes passes that have no effect."""
    first = {name: tensor[:1] for name, tensor in batch.inputs.items()}
    return Batch(first, (), idle_task=batch.segments[0].task)


def padded(values: Iterable[Sequence[int] | np.ndarray], width: int, filler: int) -> Tensor:
    """Return `[rows, width]`: the values of each row, followed by `filler`."""
    rows = list(values)
    table = np.full((len(rows), width), filler, dtype=np.int64)
    for row, sequence in zip(table, rows, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(table)


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to `device`, asynchronously to a GPU: that takes pinned memory."""
    pinned = device.type == "cuda" and tensor.device.type == "cpu"
    return (tensor.pin_memory() if pinned else tensor).to(device, non_blocking=pinned)
