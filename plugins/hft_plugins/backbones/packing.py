"""Pack a batch into fewer rows without padding, for a trunk that isolates the texts of a row.

Position ids that begin anew at each text are all that a trunk is given. A decoder of transformers makes its mask of
them, so that a text sees itself alone (`find_packed_sequence_indices` in `transformers.masking_utils`), which
`isolates` tries out; an encoder has no such mask, and its texts would see one another.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

PAYS = 0.9
"""A batch is packed where that leaves less than this share of its padded tokens."""
TOLERANCE = 1e-4
"""The largest difference, relative to the largest value, between a text alone and one behind another."""
TRIED = (5, 3)
"""Tokens of the two texts that are tried out."""

Trunk = Callable[[Mapping[str, Tensor]], Tensor]
"""Inputs to hidden states `[rows, width, hidden]`."""


@dataclass(frozen=True)
class Packed:
    """A batch `[batch, seq]` in rows of `width`, and the way back."""

    inputs: dict[str, Tensor]
    """`input_ids` and `position_ids`, each `[rows, width]`; what no text takes is a text of padding."""
    shape: tuple[int, int]
    """`batch, seq`"""
    source: Tensor
    """`[tokens]`: where each real token is in the batch, counted over all of its rows."""
    place: Tensor
    """`[tokens]`: where it is in the packed rows, counted likewise."""

    def unpacked(self, hidden: Tensor) -> Tensor:
        """`[rows, width, hidden]` → `[batch, seq, hidden]`, 0 at padding."""
        batch, seq = self.shape
        tokens = hidden.flatten(0, 1).index_select(0, self.place)
        return hidden.new_zeros(batch * seq, hidden.shape[-1]).index_copy(0, self.source, tokens).view(batch, seq, -1)


def pack(input_ids: Tensor, attention_mask: Tensor) -> Packed | None:
    """The batch (padded on the right) in rows as long as its longest text; None where that saves too little."""
    batch, seq = input_ids.shape
    lengths = attention_mask.sum(dim=1).tolist()
    width = max(lengths)
    rows = _bins(lengths, width)
    if not width or len(rows) * width > PAYS * batch * seq:
        return None
    source, place, positions = [], [], []
    for number, members in enumerate(rows):
        sizes = [lengths[i] for i in members]
        starts = [number * width, *(number * width + end for end in accumulate(sizes))]
        for i, size, start in zip(members, sizes, starts, strict=False):
            source.append(torch.arange(i * seq, i * seq + size))
            place.append(torch.arange(start, start + size))
            positions.append(torch.arange(size))
        positions.append(torch.arange(width - sum(sizes)))
    device = input_ids.device
    sources, places = torch.cat(source).to(device), torch.cat(place).to(device)
    ids = input_ids.new_zeros(len(rows) * width).index_copy(0, places, input_ids.flatten()[sources])
    inputs = {"input_ids": ids.view(-1, width), "position_ids": torch.cat(positions).to(device).view(-1, width)}
    return Packed(inputs, (batch, seq), sources, places)


def _bins(lengths: Sequence[int], width: int) -> list[list[int]]:
    """The numbers of the texts by row: the longest first, each in the first row with room for it."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = next((row for row, left in enumerate(room) if left >= lengths[i]), None)
        if fits is None:
            fits = len(rows)
            rows.append([])
            room.append(width)
        rows[fits].append(i)
        room[fits] -= lengths[i]
    return rows


def isolates(trunk: nn.Module, run: Trunk, vocabulary: int) -> bool:
    """Tell whether a text has the same hidden states behind another one as alone."""
    if "position_ids" not in inspect.signature(trunk.forward).parameters:
        return False
    first, second = TRIED
    ids = torch.arange(first + second, device=next(trunk.parameters()).device).unsqueeze(0) % vocabulary
    positions = torch.cat([torch.arange(size) for size in TRIED]).unsqueeze(0).to(ids.device)
    training = trunk.training
    trunk.eval()
    with torch.no_grad():
        together = run({"input_ids": ids, "position_ids": positions})
        parts = (ids[:, :first], ids[:, first:])
        alone = torch.cat([run({"input_ids": part, "attention_mask": torch.ones_like(part)}) for part in parts], dim=1)
    trunk.train(training)
    return bool((together - alone).abs().max() <= TOLERANCE * alone.abs().max())
