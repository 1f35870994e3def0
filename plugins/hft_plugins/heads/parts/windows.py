"""Read a long text in overlapping windows, whose outputs are pooled to those of the text.

The windows of a row are a unit: in training, evaluation and prediction they are in one batch, and the loss is of the
pooled outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


class Window(options.Options):
    """How a long text is divided, and put together again."""

    stride: int = Field(default=64, ge=0, description="overlap of consecutive windows, in tokens")
    pool: Pool = Field(
        default="mean",
        description="what the outputs of the windows (logits, values) become: their mean, maximum, or first",
    )
    most: int = Field(default=32, ge=2, description="windows of a text; what is behind them is cut, and reported")


def encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, window: Window) -> Encoded:
    """Tokenize texts in windows of at most `max_length` tokens, special ones included."""
    room = max_length - tokenizer.num_special_tokens_to_add()
    encoding: Any = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        stride=min(window.stride, room // 2),
        return_overflowing_tokens=True,
        return_attention_mask=False,
    )
    rows: list[int] = list(encoding["overflow_to_sample_mapping"])
    position = _positions(rows)
    kept = [i for i, at in enumerate(position) if at < window.most]
    names = [name for name in ("token_type_ids",) if name in encoding]
    note = f"it has more than {window.most} windows of {max_length} tokens; what is behind them is cut (window.most)"
    return Encoded(
        [encoding["input_ids"][i] for i in kept],
        [rows[i] for i in kept],
        extra={name: [encoding[name][i] for i in kept] for name in names},
        targets={POSITION: [position[i] for i in kept]},
        units=[rows[i] for i in kept],
        notes={rows[i]: note for i, at in enumerate(position) if at >= window.most},
    )


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
