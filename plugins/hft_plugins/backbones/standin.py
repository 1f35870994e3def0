"""Stand in for the trunk inside a plain class of transformers.

The head of a family's own class (`BertForSequenceClassification`, …) is that class with a `Passthrough` where the trunk
was: one trunk serves many tasks, each task's logits are those of the plain class, and a saved task opens in the plain
class without hft.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import Seq2SeqModelOutput

POOLER_PARTS = ("pooler", "pooler_activation")
"""What a family's headless class may have above its last layer, which belongs to the heads here."""
KNOWN_INPUTS = frozenset(
    {"input_ids", "attention_mask", "inputs_embeds", "token_type_ids", "position_ids", "cache_position"}
    | {f"decoder_{name}" for name in ("input_ids", "attention_mask", "inputs_embeds", "position_ids")}
    | {"encoder_hidden_states", "encoder_attention_mask"}
)
"""Inputs that a plain class may give its trunk without its hidden states being others than those given here."""


@dataclass
class PassedOn(Seq2SeqModelOutput):
    """What plain classes look for in the output of any trunk, or of a part of one; None for whatever is not computed
    (a router's logits, caches, attentions)."""

    pooler_output: Tensor | None = None
    hidden_states: Tensor | None = None
    attentions: Tensor | None = None

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


class Pooled(nn.Module):
    """The pooler of a headless class: a module on all hidden states, or (ALBERT's) a layer on those of the first token
    with an activation beside it."""

    def __init__(self, pooler: nn.Module, activation: nn.Module | None) -> None:
        super().__init__()
        self.parts = {"pooler": pooler, "activation": activation}

    def forward(self, hidden: Tensor) -> Tensor:
        """`[batch, seq, hidden]` → `[batch, hidden]`"""
        pooler, activation = self.parts["pooler"], self.parts["activation"]
        assert pooler is not None
        pooled: Tensor = pooler(hidden[:, 0] if isinstance(pooler, nn.Linear) else hidden)
        return pooled if activation is None else activation(pooled)


class Passthrough(nn.Module):
    """Stands in a plain class where its trunk was, or a part of it: returns the hidden states that it is given as
    `inputs_embeds`, and has the trunk's attributes."""

    weight = torch.empty(0)
    """T5's classes give their embeddings their first values themselves."""

    def __init__(self, original: nn.Module, pooler: nn.Module | None, activation: nn.Module | None = None) -> None:
        super().__init__()
        # Not a submodule: the head's weights are not the trunk's.
        vars(self)["original"] = original
        vars(self)["extra_inputs"] = set[str]()
        self.pooler = pooler
        if activation is not None:
            self.pooler_activation = activation

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            found = getattr(vars(self)["original"], name)
        # OPT's class calls the trunk's decoder, which passes on what it is given as well.
        return self if isinstance(found, PreTrainedModel) else found

    def forward(self, *args: Any, **given: Any) -> PassedOn:
        """`[batch, seq, hidden]` → the same, with the pooled `[batch, hidden]` where the family has a pooler."""
        if args:
            given |= inspect.signature(vars(self)["original"].forward).bind_partial(*args).arguments
        self.extra_inputs.update(n for n, v in given.items() if isinstance(v, Tensor) and n not in KNOWN_INPUTS)
        hidden = given.get("inputs_embeds")
        if hidden is None:
            hidden = given.get("decoder_inputs_embeds")
        pooled = None if self.pooler is None else Pooled(self.pooler, self._modules.get("pooler_activation"))(hidden)
        return PassedOn(last_hidden_state=hidden, pooler_output=pooled)


def parts_in(whole: PreTrainedModel, trunk: nn.Module) -> dict[str, nn.Module]:
    """Return where a plain class holds its trunk: under one name (`bert`), or part by part (T5's `shared`, `encoder`
    and `decoder`)."""
    if whole.base_model is not whole:
        return {whole.base_model_prefix: trunk}
    return dict(trunk.named_children())


def take_out(whole: PreTrainedModel, parts: Iterable[str], extras: dict[str, nn.Module] | None = None) -> None:
    """Put stand-ins where a plain class has the parts of its trunk; `extras`: its pooler."""
    extras = extras or {}
    for name in parts:
        held = getattr(whole, name)
        original = vars(held).get("original", held)
        setattr(whole, name, Passthrough(original, extras.get("pooler"), extras.get("pooler_activation")))


def stand_ins(whole: nn.Module) -> list[Passthrough]:
    """Return the stand-ins of a plain class."""
    return [module for module in whole.modules() if isinstance(module, Passthrough)]


def pooler_of(whole: PreTrainedModel, trunk: nn.Module) -> dict[str, nn.Module] | None:
    """Return the pooler of a plain class's trunk, by the names of its parts; None where that is a trunk of another kind
    than `trunk`."""
    known, held = dict(trunk.named_children()), dict(whole.base_model.named_children())
    if not known.keys() - set(POOLER_PARTS) <= held.keys():
        return None
    if whole.base_model is whole:
        return {}
    others = held.keys() - known.keys() - set(POOLER_PARTS)
    return None if others else {name: held[name] for name in POOLER_PARTS if name in held}


def remove_pooler(trunk: nn.Module) -> dict[str, Tensor]:
    """Take the pooler out of a trunk that the family's class with an LM head keeps it in, and return its weights: it
    belongs to the heads, as in the families whose class leaves it out."""
    pooler = getattr(trunk, "pooler", None)
    if not isinstance(pooler, nn.Module):
        return {}
    state = {f"pooler.{name}": tensor for name, tensor in pooler.state_dict().items()}
    trunk.pooler = NoPooler()
    return state


class NoPooler(nn.Module):
    """Computes nothing where a trunk calls its pooler."""

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        """`[batch, seq, hidden]` → the same"""
        return hidden
