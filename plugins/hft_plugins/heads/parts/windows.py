"""Read a long text in overlapping windows, whose outputs are pooled to those of the text.

The windows of a row are a unit: in training, evaluation and prediction they are in one batch, and the loss is of the
pooled outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hft_core import options
from hft_core.head import Encoded
from hft_plugins.heads.parts.example_groups import group_of

POSITION = "position"
"""The target that has the index of each window in its row."""


Pool = Literal["mean", "max", "first"]


class Overlap(options.Options):
    """How a long text is divided."""

    stride: int = Field(default=64, ge=0, description="overlap of consecutive windows, in tokens")
    most: int = Field(default=32, ge=2, description="windows of a text; what is behind them is cut, and reported")


class Window(Overlap):
    """How a long text is divided, and put together again."""

    pool: Pool = Field(
        default="mean",
        description="what the outputs of the windows (logits, values) become: their mean, maximum, or first",
    )


@dataclass(frozen=True)
class Divided:
    """The windows of texts."""

    encoding: Mapping[str, Any]
    """What the tokenizer returned of them, those that are cut among them."""
    kept: list[int]
    """The indices in `encoding` of those that are not."""
    rows: list[int]
    """`[kept]`: the row of each."""
    position: list[int]
    """`[kept]`: the index of each in its row."""
    notes: dict[int, str]
    """By row, what was cut."""

    def of(self, name: str) -> list[Any]:
        """Return what the tokenizer returned of each window that is kept."""
        return [self.encoding[name][i] for i in self.kept]

    def encoded(self, targets: Mapping[str, list[Any]]) -> Encoded:
        """Return the windows as examples, those of a row as a unit."""
        extra = {name: self.of(name) for name in ("token_type_ids",) if name in self.encoding}
        return Encoded(
            self.of("input_ids"), self.rows, extra=extra, targets=dict(targets), units=self.rows, notes=self.notes
        )


def encode(
    texts: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, max_length: int, window: Window
) -> Encoded:
    """Tokenize texts, or pairs of which the second text is divided (`texts` holds one or two columns), in windows of at
    most `max_length` tokens, special ones included."""
    found = divide(texts, tokenizer, max_length, window)
    return found.encoded({POSITION: found.position})


def divide(
    texts: Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    overlap: Overlap,
    *,
    offsets: bool = False,
) -> Divided:
    """Tokenize texts in windows. Each window of a pair begins with its first text, of which at most half a window is
    read; consecutive windows share at most half of what is left. `offsets`: with the places of tokens in the texts."""
    room = max_length - tokenizer.num_special_tokens_to_add(pair=len(texts) == 2)
    columns = [list(column) for column in texts]
    notes: dict[int, str] = {}
    if len(columns) == 2:
        columns[0], notes = _first_halves(columns[0], tokenizer, room - room // 2)
        room //= 2
    encoding: Any = tokenizer(
        *columns,
        truncation="only_second" if len(columns) == 2 else True,
        max_length=max_length,
        stride=min(overlap.stride, room // 2),
        return_overflowing_tokens=True,
        return_attention_mask=False,
        return_offsets_mapping=offsets,
    )
    rows: list[int] = list(encoding["overflow_to_sample_mapping"])
    position = _positions(rows)
    kept = [i for i, at in enumerate(position) if at < overlap.most]
    note = f"it has more than {overlap.most} windows of {max_length} tokens; what is behind them is cut (window.most)"
    for row in dict.fromkeys(rows[i] for i, at in enumerate(position) if at >= overlap.most):
        notes[row] = f"{notes[row]}\n{note}" if row in notes else note
    return Divided(encoding, kept, [rows[i] for i in kept], [position[i] for i in kept], notes)


def _first_halves(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, room: int
) -> tuple[list[str], dict[int, str]]:
    """Cut texts at `room` tokens; return them, and a note for each row that was cut."""
    encoding: Any = tokenizer(
        list(texts), add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False
    )
    found, notes = list(texts), {}
    for row, places in enumerate(encoding["offset_mapping"]):
        if len(places) > room:
            found[row] = _beginning(texts[row], places, tokenizer, room)
            notes[row] = f"its first text has more than the {room} tokens that a window has for it; the rest is cut"
    return found, notes


def _beginning(text: str, places: Sequence[tuple[int, int]], tokenizer: PreTrainedTokenizerBase, room: int) -> str:
    """Return the beginning of a text that has at most `room` tokens: cut inside of a character of several tokens, or of
    a word, it may have more of them than it had there."""
    for last in range(room, 0, -1):
        cut = text[: places[last - 1][1]]
        if len(tokenizer(cut, add_special_tokens=False)["input_ids"]) <= room:
            return cut
    return ""


def most_context(places: Sequence[Mapping[int, tuple[int, int]]], lengths: Sequence[int]) -> list[dict[int, int]]:
    """Choose for each word of one text the window in which it has the most context on its poorer side, the first of
    equals, as BERT's predictions for SQuAD do (Devlin et al. 2019, `_check_is_max_context`).

    `places`: by window, the token that a word begins with there and the character that this token begins with; a window
    that begins inside of a word has not its first token. `lengths`: tokens of each window. Returns the token of each
    word that is read in a window, by window.
    """
    chosen: dict[int, tuple[tuple[int, int, int], int]] = {}
    for window, (words, length) in enumerate(zip(places, lengths, strict=True)):
        for word, (token, start) in words.items():
            rank = (-start, min(token, length - 1 - token), -window)
            if word not in chosen or rank > chosen[word][0]:
                chosen[word] = (rank, token)
    found: list[dict[int, int]] = [{} for _ in places]
    for word, ((_, _, window), token) in sorted(chosen.items()):
        found[-window][word] = token
    return found


def _positions(rows: Sequence[int]) -> list[int]:
    """Return the index of each window in its row."""
    found: list[int] = []
    for i, row in enumerate(rows):
        found.append(found[-1] + 1 if i and rows[i - 1] == row else 0)
    return found


def pooled(outputs: Tensor, position: Tensor, pool: Pool) -> Tensor:
    """Pool the outputs of windows: `[windows, …]` → `[rows, …]`. `position`: `[windows]`, the index of each in its
    row."""
    if pool == "first":
        return outputs[position == 0]
    group = group_of(position)
    rows = int(group[-1]) + 1
    index = group.view(-1, *[1] * (outputs.ndim - 1)).expand_as(outputs)
    reduce = "amax" if pool == "max" else "mean"
    empty = outputs.new_zeros((rows, *outputs.shape[1:]))
    return empty.scatter_reduce(0, index, outputs, reduce, include_self=False)


def of_rows(targets: Mapping[str, Sequence[Any]], dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the targets of a batch's rows, `[rows, …]`, and the position of its windows, where there are any."""
    target = torch.tensor(targets.get("target", []), dtype=dtype)
    if POSITION not in targets:
        return target, {}
    position = torch.tensor(targets[POSITION])
    return target[position == 0] if len(target) else target, {POSITION: position}
