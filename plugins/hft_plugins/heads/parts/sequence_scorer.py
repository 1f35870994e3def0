"""Choose how a text becomes one vector, and the module that scores it.

`auto` takes, in this order: a sentence encoder's own pooling; the family's own class with its pooler, if the
checkpoint has one that tells texts apart; the family's own class if it needs no pooler; the last token of a causal
trunk; the mean.
A fresh pooler is not taken: it is a dense layer more to learn, on one token's hidden state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from hft_core.backbone import Backbone, Features, SequenceModule
from hft_plugins.heads.parts.pooling import POOLINGS, PooledLinear, Pooling, default_pooling, make_pooler

PoolingOption = Literal["auto", "pooler", "cls", "mean", "max", "last", "attention"]
SENTENCE, FAMILY, UNRECORDED = "sentence-encoder", "family", "unrecorded"
"""Choices that are no `Pooling`: the backbone's own pooler, the family's own class, and that of a run saved before the
choice was recorded."""
PROBE_TEXTS = ("The harbour opened again after two days of storms.", "no", "Why does my order say it was returned?")
MIN_SPREAD = 1e-3
"""A pooler whose outputs for different texts differ by less is taken to be untrained."""


@dataclass(frozen=True)
class SequenceScorer:
    """A module `Features` → `[batch, outputs]`, and how it pools."""

    module: nn.Module
    choice: str
    """A `Pooling`, `SENTENCE` or `FAMILY`: what makes the same module again."""
    reason: str


def sequence_scorer(backbone: Backbone, outputs: int, plain_class: str, pooling: str) -> SequenceScorer:
    """Build the scorer for `pooling`: a `PoolingOption` or an earlier choice.

    Raises `ValueError` where `pooler` is asked for and the checkpoint has none.
    """
    if pooling == "auto":
        return _automatic(backbone, outputs, plain_class)
    if pooling == SENTENCE:
        own = backbone.pooler()
        if own is None:
            raise ValueError("expected a sentence encoder's own pooling, and the backbone has none")
        return SequenceScorer(PooledLinear(own, outputs), SENTENCE, "the sentence encoder's own pooling")
    if pooling == UNRECORDED:
        family = backbone.sequence_module(plain_class, num_labels=outputs)
        if family is not None:
            return SequenceScorer(family, FAMILY, "as saved")
        own = backbone.pooler() or make_pooler(default_pooling(backbone.causal), backbone.hidden_size)
        return SequenceScorer(PooledLinear(own, outputs), UNRECORDED, "as saved")
    if pooling in (FAMILY, "pooler"):
        family = backbone.sequence_module(plain_class, num_labels=outputs)
        if family is None or (pooling == "pooler" and not family.pooler_parameters()):
            raise ValueError(
                f"pooling 'pooler': the model has no pooler; expected auto or one of {', '.join(POOLINGS)}"
            )
        return SequenceScorer(family, FAMILY, "as asked for")
    assert pooling in POOLINGS
    return _asked_for(backbone, outputs, plain_class, pooling)


def _asked_for(backbone: Backbone, outputs: int, plain_class: str, pooling: Pooling) -> SequenceScorer:
    """Take the family's class where it pools so itself, since other libraries open it."""
    family = backbone.sequence_module(plain_class, num_labels=outputs)
    if family is not None and not family.pooler_parameters() and family_pooling(backbone, family) == pooling:
        return SequenceScorer(family, FAMILY, "as asked for")
    return _pooled(backbone, outputs, pooling, "as asked for")


def _automatic(backbone: Backbone, outputs: int, plain_class: str) -> SequenceScorer:
    if backbone.pooler() is not None:
        return sequence_scorer(backbone, outputs, plain_class, SENTENCE)
    if backbone.pooling is not None:
        return replace(
            _asked_for(backbone, outputs, plain_class, backbone.pooling), reason="the sentence encoder's own"
        )
    family = backbone.sequence_module(plain_class, num_labels=outputs)
    if family is None:
        default = default_pooling(backbone.causal)
        return _pooled(backbone, outputs, default, "transformers has no class with such a head for this model")
    if not family.pooler_parameters():
        return SequenceScorer(family, FAMILY, "the model family's own")
    if not family.pooler_is_pretrained:
        return _pooled(backbone, outputs, "mean", "the checkpoint has no pre-trained pooler")
    if not tells_texts_apart(backbone, family):
        return _pooled(backbone, outputs, "mean", "the checkpoint's pooler gives the same vector for any text")
    return SequenceScorer(family, FAMILY, "the checkpoint's pre-trained pooler")


def _pooled(backbone: Backbone, outputs: int, pooling: Pooling, reason: str) -> SequenceScorer:
    return SequenceScorer(PooledLinear(make_pooler(pooling, backbone.hidden_size), outputs), pooling, reason)


@torch.no_grad()
def tells_texts_apart(backbone: Backbone, family: SequenceModule) -> bool:
    """Return whether the pooler's outputs differ between texts."""
    pooled = family.pool(_probe(backbone).hidden)
    return pooled is not None and bool(pooled.std(dim=0).max() > MIN_SPREAD)


def family_pooling(backbone: Backbone, family: SequenceModule) -> Pooling | None:
    """Return how the family's class pools, by which tokens' hidden states its output depends on; None if otherwise."""
    features = _probe(backbone)
    hidden = features.hidden.detach().requires_grad_()
    was_training = family.training
    family.eval()
    with torch.enable_grad():
        output = family(Features(hidden, features.input_ids, features.attention_mask))
        (gradient,) = torch.autograd.grad(output.sum(), hidden)
    family.train(was_training)
    size = gradient.norm(dim=-1)
    used = size > 1e-6 * size.max()
    real, last = features.attention_mask.bool(), features.attention_mask.sum(dim=1) - 1
    if torch.equal(used, torch.zeros_like(used).scatter_(1, torch.zeros_like(last).unsqueeze(1), True)):
        return "cls"
    if torch.equal(used, torch.zeros_like(used).scatter_(1, last.unsqueeze(1), True)):
        return "last"
    equal = all(torch.allclose(row[mask], row[mask][0], rtol=1e-3) for row, mask in zip(size, real, strict=True))
    return "mean" if torch.equal(used, real) and equal else None


@torch.no_grad()
def _probe(backbone: Backbone) -> Features:
    """Run a few texts through the trunk, in evaluation mode."""
    tokenizer, device = backbone.tokenizer, next(backbone.trunk.parameters()).device
    batch = tokenizer(
        list(PROBE_TEXTS), truncation=True, max_length=backbone.max_length, padding=True, return_tensors="pt"
    )
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    was_training = backbone.trunk.training
    backbone.trunk.eval()
    hidden = backbone.forward(inputs)
    backbone.trunk.train(was_training)
    return Features(hidden, inputs["input_ids"], inputs["attention_mask"])
