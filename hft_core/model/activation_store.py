"""What the frozen part of a trunk made of rows that come again, kept in a memory-mapped file."""

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
    """What the trunk is given of a row, without padding."""

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
    """Hidden states `[seq, hidden]` by row, in a file that is read as batches need it."""

    def __init__(self, path: Path, rows: Mapping[bytes, int], *, hidden: int, dtype: torch.dtype) -> None:
        """`rows`: the tokens of each row by its key, in the order of the file, which begins with one token of zeros.

        Raises `OSError` when the file cannot be read or has another size.
        """
        lengths = np.fromiter(rows.values(), np.int64, len(rows))
        tokens = 1 + int(lengths.sum())
        self._table = _mapped(path, tokens * hidden * dtype.itemsize).view(dtype).view(tokens, hidden)
        self._starts = np.append(np.cumsum(lengths) - lengths + 1, 0)  # the last one: of a row that is not there
        self._lengths = np.append(lengths, 0)
        self._places = {key: place for place, key in enumerate(rows)}

    def put_into(self, batch: Batch) -> Batch:
        """The batch with what is stored of its rows, where there is any of it."""
        places = np.array([self._places.get(row.key, -1) for row in rows_of(batch.inputs)])
        if (places < 0).all():
            return batch
        steps = np.arange(batch.inputs["input_ids"].shape[1])
        real = steps < self._lengths[places][:, None]
        tokens = torch.from_numpy(np.where(real, self._starts[places][:, None] + steps, 0))
        hidden = self._table.index_select(0, tokens.view(-1)).view(*tokens.shape, -1)
        return replace(batch, cached=CachedHidden(hidden, torch.from_numpy(np.flatnonzero(places < 0))))


def _mapped(path: Path, size: int) -> Tensor:
    """The bytes of a file, which are read when they are looked at."""
    if path.stat().st_size != size:
        raise OSError(f"{path} has {path.stat().st_size} bytes, expected {size}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nor is it written to
        return torch.from_numpy(np.memmap(path, np.uint8, mode="r"))
