"""Read cached hidden states of the frozen prefix from a memory-mapped file, row by row."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hft_core.batching.batch import Batch, CachedHidden, padded

KEY_BYTES = 16
GIVEN = ("input_ids", "attention_mask")
"""The inputs that every row has."""


@dataclass(frozen=True)
class Row:
    """The trunk's inputs of one row, without padding."""

    ids: np.ndarray
    """`[seq]`"""
    extra: Mapping[str, np.ndarray]
    """Further inputs by name, each `[seq]`; those that are all zero are left out, as in a batch where others have
    none."""

    @property
    def key(self) -> bytes:
        """Equal for equal rows, and never for others."""
        digest = blake2b(self.ids.tobytes(), digest_size=KEY_BYTES)
        for name in sorted(self.extra):
            digest.update(name.encode() + self.extra[name].tobytes())
        return digest.digest()


def rows_of(inputs: Mapping[str, Tensor]) -> list[Row]:
    """The rows of a batch."""
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    ids = inputs["input_ids"].numpy().astype(np.int32)
    extra = {name: tensor.numpy().astype(np.int32) for name, tensor in inputs.items() if name not in GIVEN}
    used = {name: table for name, table in extra.items() if table.any()}
    return [
        Row(ids[i, :n], {name: table[i, :n] for name, table in used.items() if table[i, :n].any()})
        for i, n in enumerate(lengths)
    ]


def inputs_of(rows: Sequence[Row], pad: int) -> dict[str, Tensor]:
    """A batch of rows, in the inverse of `rows_of`."""
    width = max(len(row.ids) for row in rows)
    names = dict.fromkeys(name for row in rows for name in row.extra)
    return {
        "input_ids": padded((row.ids for row in rows), width, pad),
        "attention_mask": padded((np.ones_like(row.ids) for row in rows), width, 0),
        **{name: padded((row.extra.get(name, ()) for row in rows), width, 0) for name in names},
    }


class Store:
    """Hidden states `[seq, hidden]` by row, in a file that is read as batches need it, while it is open."""

    def __init__(self, rows: Sequence[Row], sample: Tensor) -> None:
        """`rows`: in the order of the file, which begins with one token of zeros; `sample` `[seq, hidden]`: the hidden
        states of some row."""
        self.rows, self.sample = rows, sample
        self._file: _File | None = None

    def open(self, path: Path) -> None:
        """Read from `path` from now on. Raises `OSError` when it cannot be read or has another size."""
        self._file = _File(path, self.rows, self.sample)
        self.rows = ()  # the file's index has their keys

    def close(self) -> None:
        """Read no longer: `put_into` leaves batches as they are."""
        self._file = None

    def put_into(self, batch: Batch) -> Batch:
        """The batch with the stored hidden states of its rows, where there are any."""
        return batch if self._file is None else self._file.put_into(batch)


class _File:
    def __init__(self, path: Path, rows: Sequence[Row], sample: Tensor) -> None:
        by_key = {row.key: len(row.ids) for row in rows}
        lengths = np.fromiter(by_key.values(), np.int64, len(by_key))
        tokens, hidden = 1 + int(lengths.sum()), sample.shape[1]
        self._table = _mapped(path, tokens * hidden * sample.itemsize).view(sample.dtype).view(tokens, hidden)
        self._starts = np.append(np.cumsum(lengths) - lengths + 1, 0)  # the last one: of a row that is not there
        self._lengths = np.append(lengths, 0)
        self._places = {key: place for place, key in enumerate(by_key)}

    def put_into(self, batch: Batch) -> Batch:
        places = np.array([self._places.get(row.key, -1) for row in rows_of(batch.inputs)])
        if (places < 0).all():
            return batch
        steps = np.arange(batch.inputs["input_ids"].shape[1])
        real = steps < self._lengths[places][:, None]
        tokens = torch.from_numpy(np.where(real, self._starts[places][:, None] + steps, 0))
        hidden = self._table.index_select(0, tokens.view(-1)).view(*tokens.shape, -1)
        return replace(batch, cached=CachedHidden(hidden, torch.from_numpy(np.flatnonzero(places < 0))))


def _mapped(path: Path, size: int) -> Tensor:
    """Map the bytes of a file, which are read when they are accessed."""
    if path.stat().st_size != size:
        raise OSError(f"{path} has {path.stat().st_size} bytes, expected {size}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # it is only read
        return torch.from_numpy(np.memmap(path, np.uint8, mode="r"))
