"""Examples that belong together: the choices of a question, the candidates of a query.

`position`, `[n]`, is each example's place in its unit, from 0; a unit's examples follow one another in a batch.
"""

from __future__ import annotations

from hashlib import blake2b

from torch import Tensor


def unit_of(position: Tensor) -> Tensor:
    """`[n]`: the number of each example's unit in the batch."""
    return (position == 0).cumsum(dim=0) - 1


def table(values: Tensor, position: Tensor, filler: float) -> Tensor:
    """`[n]` → `[units, examples of the longest unit]`; shorter units are filled up with `filler`."""
    unit = unit_of(position)
    made = values.new_full((int(unit[-1]) + 1, int(position.max()) + 1), filler)
    return made.index_put((unit, position), values)


def identity(content: bytes) -> int:
    """A number of 64 bits that stands for `content`, the same in every process."""
    return int.from_bytes(blake2b(content, digest_size=8).digest(), signed=True)
