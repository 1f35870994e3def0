"""One vector a sequence, from the hidden states of its tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from hft_core.backbone import Backbone, Features, Pooler

Pooling = Literal["mean", "cls", "last"]
"""`mean` of the real tokens; `cls`: the first token; `last`: the last real token, which in a causal trunk has seen all
others."""


def default_pooling(causal: bool) -> Pooling:
    """What suits the trunk where nothing else is asked for."""
    return "last" if causal else "mean"


def pool(features: Features, pooling: Pooling) -> Tensor:
    """→ `[batch, hidden]`, in float32: a sum over many tokens loses too much in bfloat16."""
    if pooling == "cls":
        return features.hidden[:, 0].float()
    if pooling == "last":
        last = features.attention_mask.sum(dim=1).long() - 1
        return features.hidden[torch.arange(len(last), device=last.device), last].float()
    mask = features.attention_mask.float()
    return (features.hidden.float() * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)


class Pool(Pooler):
    """`pool` as a module."""

    def __init__(self, pooling: Pooling, size: int) -> None:
        super().__init__()
        self.pooling, self.size = pooling, size

    def forward(self, features: Features) -> Tensor:
        """→ `[batch, hidden]`"""
        return pool(features, self.pooling)


def pooler_of(backbone: Backbone, pooling: Pooling | None = None) -> Pooler:
    """`pooling` where it is given; otherwise the backbone's own, or what suits its trunk."""
    own = backbone.pooler() if pooling is None else None
    return own or Pool(pooling or default_pooling(backbone.causal), backbone.hidden_size)


class PooledLinear(nn.Module):
    """For backbones whose family has no module of its own: a linear layer on the pooled hidden states."""

    def __init__(self, backbone: Backbone, outputs: int) -> None:
        super().__init__()
        self.pool = pooler_of(backbone)
        self.output = nn.Linear(self.pool.size, outputs)

    def forward(self, features: Features) -> Tensor:
        """→ `[batch, outputs]`"""
        outputs: Tensor = self.output(self.pool(features))
        return outputs
