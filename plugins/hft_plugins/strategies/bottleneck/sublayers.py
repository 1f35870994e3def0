"""Where the attention and the feed-forward block of each layer begin and end, found by watching one forward pass.

No family is known by name: in every one of them the first sub-module of a layer that multiplies by weights is the
attention, which ends with a projection back to the hidden size, and the last such product of the layer ends the
feed-forward block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hft_core.backbone import Backbone
from hft_plugins.strategies.selective.layer_norm import is_norm


@dataclass(frozen=True)
class Sublayer:
    """An attention or a feed-forward block."""

    first: nn.Module
    """The projection that takes the block's input `[batch, seq, hidden]`."""
    last: nn.Module
    """The projection that gives the block's output `[batch, seq, hidden]`, before the residual is added."""


@dataclass(frozen=True)
class Layer:
    """One layer of the trunk."""

    module: nn.Module
    attention: Sublayer
    feed_forward: Sublayer
    norm: nn.Module | None
    """The norm over the sum of feed-forward output and residual, where the layer ends with it (BERT, not Llama)."""
    hidden: int


@dataclass(frozen=True)
class _Call:
    module: nn.Module
    output: Any


def find(backbone: Backbone) -> list[Layer]:
    """The trunk's layers, the lowest first.

    Raises `ValueError` when a layer does not have the form that is looked for.
    """
    return [_layer(module, calls) for module, calls in _watch(backbone)]


def hidden_of(output: Any) -> Tensor:
    """The hidden states in what a layer returns; some families wrap them into a tuple."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def _watch(backbone: Backbone) -> Sequence[tuple[nn.Module, list[_Call]]]:
    """For each layer, in order, the calls of its innermost modules and at last its own, on a text of two tokens."""
    watched: list[tuple[nn.Module, list[_Call]]] = [(layer, []) for layer in backbone.layers]
    handles = []
    for layer, calls in watched:

        def note(module: nn.Module, args: Any, output: Any, calls: list[_Call] = calls) -> None:
            calls.append(_Call(module, output))

        inner = [module for module in layer.modules() if not any(True for _ in module.children())]
        handles += [module.register_forward_hook(note) for module in (*inner, layer)]
    training = {module: module.training for module in backbone.trunk.modules()}
    backbone.trunk.eval()
    try:
        with torch.no_grad():
            device = next(backbone.trunk.parameters()).device
            two_tokens = torch.ones(1, 2, dtype=torch.long, device=device)
            backbone.forward({"input_ids": two_tokens, "attention_mask": two_tokens})
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{type(backbone.trunk).__name__} cannot compute a text of two tokens, from which the parts of its layers "
            f"are known: {reason}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return watched


def _layer(module: nn.Module, calls: Sequence[_Call]) -> Layer:
    products = [call for call in calls if isinstance(call.module, nn.Linear | Conv1D)]
    attention = _first_block(module, [call.module for call in products])
    of_attention = [call for call in products if call.module in attention]
    of_feed_forward = [call for call in products if call.module not in attention]
    kind = type(module).__name__
    if not of_attention or not of_feed_forward:
        raise ValueError(
            f"{kind} has not the form of a layer: expected an attention module with linear layers, then a feed-forward "
            "block with linear layers"
        )
    output = hidden_of(calls[-1].output)
    for call in (of_attention[-1], of_feed_forward[-1]):
        if call.output.shape != output.shape:
            raise ValueError(
                f"{kind} has not the form of a layer: expected its attention and its feed-forward block to end with a "
                f"linear layer that gives [batch, seq, {output.shape[-1]}], found {list(call.output.shape)} for [1, 2]"
            )
    norms = [call.module for call in calls[:-1] if is_norm(call.module) and call.output is output]
    return Layer(
        module,
        Sublayer(of_attention[0].module, of_attention[-1].module),
        # The last product but one takes the block's input: the only other one, or one of two side by side.
        Sublayer(of_feed_forward[-2:][0].module, of_feed_forward[-1].module),
        norms[-1] if norms else None,
        output.shape[-1],
    )


def _first_block(layer: nn.Module, products: Sequence[nn.Module]) -> set[nn.Module]:
    """The modules inside the first sub-module of `layer` that has any of `products`; a container that holds all of them
    is looked into. Empty where the products are not divided among sub-modules."""
    inside = layer
    while products:
        children = [set(child.modules()) for child in inside.children()]
        block = next(modules for modules in children if products[0] in modules)
        if not block.issuperset(products):
            return block if len(block) > 1 else set()
        if len(block) == 1:
            break
        inside = next(child for child in inside.children() if products[0] in child.modules())
    return set()
