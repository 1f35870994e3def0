"""Apply low-rank additions to rows of different tasks: each group of rows with its own matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hft_core.strategy import TaskRows

Groups = tuple[tuple[str, int], ...]
"""The tasks of a batch, each with how many of the next rows are its own."""


class LowRank(NamedTuple):
    """The addition `scaling · B A` to a linear layer's weight."""

    down: Tensor
    """A, `[r, in]`"""
    up: Tensor
    """B, `[out, r]`"""
    scaling: float


def groups_of(rows: TaskRows) -> Groups:
    """Return the groups of a batch: neighbors of one task are one group, a task without rows is none. A task that is
    alone has all rows.

    Raises `ValueError` when the slices do not follow one another from row 0 on.
    """
    if len(rows) == 1:
        return ((rows[0][0], 1),)
    found: list[tuple[str, int]] = []
    end = 0
    for task, part in rows:
        if part.start != end or part.stop < end:
            raise ValueError(f"the rows of task '{task}' are {part}, but those before it end at {end}")
        size, end = part.stop - end, part.stop
        if found and found[-1][0] == task:
            found[-1] = (task, found[-1][1] + size)
        elif size:
            found.append((task, size))
    return tuple(found)


def product_dtype(x: Tensor, factor: Tensor) -> torch.dtype:
    """Return the number format for a product of both: autocast's where that is on, and else that of `factor`."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else factor.dtype


def add_low_rank(output: Tensor, x: Tensor, sizes: Sequence[int], additions: Sequence[LowRank | None]) -> Tensor:
    """Return a linear layer's output for `x` `[rows, …, in]`, with each group's own addition.

    `output` `[rows, …, out]`: what the layer alone makes of it; overwritten where no gradient is recorded. Group i is
    the next `sizes[i]` rows; None adds nothing. The products are in autocast's number format where that is on and else
    in that of the additions, and the result in that of `output`, as in PEFT.
    """
    known = [addition for addition in additions if addition is not None]
    if not known:
        return output
    dtype = product_dtype(x, known[0].down)
    flat, result = _flat(x, dtype), _flat(output, dtype)
    counts = [size * (len(flat) // len(x)) for size in sizes]
    if len(known) > 1 and _alike(counts, additions):
        result = _add_batched(result, flat, known)
    elif torch.is_grad_enabled():
        result = _add_recorded(result, flat, counts, additions)
    else:
        _add_in_place(result, flat, counts, additions)
    return result.view(output.shape).to(output.dtype)


def _flat(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`[rows, …, n]` → `[tokens, n]`"""
    return tensor.to(dtype).reshape(-1, tensor.shape[-1])


def _alike(counts: list[int], additions: Sequence[LowRank | None]) -> bool:
    """Return whether one batched product serves all groups."""
    shapes = {addition and (addition.down.shape, addition.scaling) for addition in additions}
    return len(set(counts)) == len(shapes) == 1


def _add_batched(result: Tensor, flat: Tensor, additions: Sequence[LowRank]) -> Tensor:
    down = torch.stack([addition.down for addition in additions]).to(flat.dtype)
    up = torch.stack([addition.up for addition in additions]).to(flat.dtype)
    n = len(additions)
    inner = torch.bmm(flat.view(n, -1, flat.shape[-1]), down.mT)
    batched = result.view(n, -1, result.shape[-1])
    add = torch.baddbmm if torch.is_grad_enabled() else Tensor.baddbmm_
    return add(batched, inner, up.mT, alpha=additions[0].scaling).view(result.shape)


def _add_recorded(result: Tensor, flat: Tensor, counts: list[int], additions: Sequence[LowRank | None]) -> Tensor:
    """Concatenate one product after another: writing into slices would copy the whole gradient for each."""
    pieces = []
    for piece, part, addition in zip(torch.split(result, counts), torch.split(flat, counts), additions, strict=True):
        if addition is not None:
            inner = part @ addition.down.to(part.dtype).T
            piece = torch.addmm(piece, inner, addition.up.to(part.dtype).T, alpha=addition.scaling)
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _add_in_place(result: Tensor, flat: Tensor, counts: list[int], additions: Sequence[LowRank | None]) -> None:
    for piece, part, addition in zip(torch.split(result, counts), torch.split(flat, counts), additions, strict=True):
        if addition is not None:
            inner = part @ addition.down.to(part.dtype).T
            piece.addmm_(inner, addition.up.to(part.dtype).T, alpha=addition.scaling)
