"""Arrange the examples of a batch by group: the choices of a question, the candidates of a query.

`position` `[n]` is the index of each example in its group, from 0; the examples of a group are consecutive in a batch.
"""

from __future__ import annotations

from hashlib import blake2b

from torch import Tensor


def group_of(position: Tensor) -> Tensor:
    """Return the index of each example's group in the batch, `[n]`."""
    return (position == 0).cumsum(dim=0) - 1


def table(values: Tensor, position: Tensor, filler: float) -> Tensor:
    """Arrange `values` `[n]` as `[groups, examples of the largest group]`, padded with `filler`."""
    group = group_of(position)
    empty = values.new_full((int(group[-1]) + 1, int(position.max()) + 1), filler)
    return empty.index_put((group, position), values)


def identity(content: bytes) -> int:
    """Hash `content` to 64 bits, the same in every process."""
    return int.from_bytes(blake2b(content, digest_size=8).digest(), signed=True)
