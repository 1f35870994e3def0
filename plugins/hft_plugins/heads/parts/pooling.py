"""Pool the hidden states of a sequence's tokens into one vector."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from hft_core.backbone import Backbone, Features, Pooler, TextPooling

Pooling = Literal["cls", "mean", "max", "last", "attention"]
"""`cls`: the first token; `mean` and `max`: over the real tokens; `last`: the last real token, which in a causal trunk
has seen all others; `attention`: a mean with learned weights."""
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


def default_pooling(causal: bool) -> Pooling:
    """Return what suits the trunk where nothing else is asked for."""
    return "last" if causal else "mean"


def pool(features: Features, pooling: TextPooling) -> Tensor:
    """→ `[batch, hidden]`, in float32: a sum over many tokens loses too much in bfloat16."""
    if pooling == "cls":
        return features.hidden[:, 0].float()
    if pooling == "last":
        last = features.attention_mask.sum(dim=1).long() - 1
        return features.hidden[torch.arange(len(last), device=last.device), last].float()
    if pooling == "max":
        real = features.attention_mask.bool().unsqueeze(-1)
        return features.hidden.float().masked_fill(~real, -torch.inf).amax(dim=1)
    mask = features.attention_mask.float()
    return (features.hidden.float() * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)


class Pool(Pooler):
    """`pool` as a module."""

    def __init__(self, pooling: TextPooling, size: int) -> None:
        super().__init__()
        self.pooling, self.size = pooling, size

    def forward(self, features: Features) -> Tensor:
        """→ `[batch, hidden]`"""
        return pool(features, self.pooling)


class AttentionPool(Pooler):
    """Take a mean with learned weights: a softmax over the tokens' scores, all equal at first."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.score = nn.Linear(size, 1)
        nn.init.zeros_(self.score.weight)

    def forward(self, features: Features) -> Tensor:
        """→ `[batch, hidden]`"""
        hidden = features.hidden.float()
        scores = self.score(hidden).float().squeeze(-1).masked_fill(~features.attention_mask.bool(), -torch.inf)
        mean: Tensor = (hidden * scores.softmax(dim=1).unsqueeze(-1)).sum(dim=1)
        return mean


def make_pooler(pooling: Pooling, size: int) -> Pooler:
    """Return a new module for `pooling`; `size`: that of the hidden states."""
    return AttentionPool(size) if pooling == "attention" else Pool(pooling, size)


def pooler_of(backbone: Backbone, pooling: Pooling | None = None) -> Pooler:
    """Return `pooling` where it is given; otherwise the backbone's own, or what suits its trunk."""
    own = backbone.pooler() if pooling is None else None
    return own or make_pooler(pooling or backbone.pooling or default_pooling(backbone.causal), backbone.hidden_size)


class PooledLinear(nn.Module):
    """Score a pooled vector by a linear layer."""

    def __init__(self, pool: Pooler, outputs: int) -> None:
        super().__init__()
        self.pool = pool
        self.output = nn.Linear(pool.size, outputs)

    def forward(self, features: Features) -> Tensor:
        """→ `[batch, outputs]`"""
        outputs: Tensor = self.output(self.pool(features))
        return outputs
