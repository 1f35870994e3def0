"""Score arcs and relations from words' representations: the network of the paper above its encoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SLOPE = 0.1
"""Of the leaky ReLU of the authors' parser below zero."""


class Biaffine(nn.Module):
    """`[x; 1]ᵀ U [y; 1]` for each output: a bilinear and a linear term and a bias, as for labels (Dozat and
    Manning 2017, equation 3). Without `both_alone` only y speaks alone, as for arcs: whether a word is a likely head
    (equation 6)."""

    def __init__(self, size: int, outputs: int, *, both_alone: bool) -> None:
        super().__init__()
        self.both_alone = both_alone
        self.weight = nn.Parameter(torch.empty(outputs, size + 1, size + both_alone))
        bound = 1 / math.sqrt(size)
        nn.init.uniform_(self.weight, -bound, bound)

    def every_pair(self, x: Tensor, y: Tensor) -> Tensor:
        """`[batch, n, size]`, `[batch, m, size]` → `[batch, outputs, n, m]`."""
        return torch.einsum("bnoj,bmj->bonm", self._half(x), self._right(y))

    def each_pair(self, x: Tensor, y: Tensor) -> Tensor:
        """`[batch, n, size]` twice → `[batch, n, outputs]`."""
        return torch.einsum("bnoj,bnj->bno", self._half(x), self._right(y))

    def _half(self, x: Tensor) -> Tensor:
        return torch.einsum("bni,oij->bnoj", _with_one(x.to(self.weight.dtype)), self.weight)

    def _right(self, y: Tensor) -> Tensor:
        y = y.to(self.weight.dtype)
        return _with_one(y) if self.both_alone else y


def _with_one(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, torch.ones_like(tensor[..., :1])], dim=-1)


class Mlp(nn.Sequential):
    """Reduce a word's representation for one of its roles (equations 4 and 5)."""

    def __init__(self, size: int, outputs: int, dropout: float) -> None:
        super().__init__(nn.Linear(size, outputs), nn.LeakyReLU(SLOPE), nn.Dropout(dropout))


class DeepBiaffine(nn.Module):
    """A word's representation is reduced for each of its roles, dependent and head, of arcs and of relations, and pairs
    are scored from that. The root is a representation of its own, since not every tokenizer has a token for it."""

    def __init__(self, size: int, relations: int, *, arc_size: int, label_size: int, dropout: float) -> None:
        super().__init__()
        self.root = nn.Parameter(torch.empty(size).normal_(std=1 / math.sqrt(size)))
        self.arc_dependent, self.arc_head = (Mlp(size, arc_size, dropout) for _ in range(2))
        self.label_dependent, self.label_head = (Mlp(size, label_size, dropout) for _ in range(2))
        self.arc = Biaffine(arc_size, 1, both_alone=False)
        self.label = Biaffine(label_size, relations, both_alone=True)

    def with_root(self, words: Tensor) -> Tensor:
        """`[batch, words, size]` → `[batch, 1 + words, size]`: the candidates for heads."""
        return torch.cat([self.root.to(words.dtype).expand(len(words), 1, -1), words], dim=1)

    def arcs(self, words: Tensor) -> Tensor:
        """`[batch, words, 1 + words]`, in the weights' own precision: how well each candidate is each word's head."""
        dependents, heads = self.arc_dependent(words), self.arc_head(self.with_root(words))
        with torch.autocast(words.device.type, enabled=False):  # sums of that many products lose too much in bfloat16
            return self.arc.every_pair(dependents, heads).squeeze(1)

    def labels(self, words: Tensor, heads: Tensor) -> Tensor:
        """`[batch, words, relations]`, likewise: how well each relation fits between each word and its head.

        `heads`: `[batch, words]`, 0 for the root, i for word i (from 1).
        """
        candidates = self.label_head(self.with_root(words))
        chosen = candidates.gather(1, heads.unsqueeze(-1).expand(-1, -1, candidates.shape[-1]))
        dependents = self.label_dependent(words)
        with torch.autocast(words.device.type, enabled=False):
            return self.label.each_pair(dependents, chosen)
