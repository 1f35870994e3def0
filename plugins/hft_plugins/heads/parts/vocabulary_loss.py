"""Compute the cross-entropy over a vocabulary without holding `[tokens, vocabulary]`.

Logits are made for a chunk of tokens at a time. Where no weight of the LM head trains (under adapters), the gradient of
the hidden states is computed along with each chunk's loss, so that no logits are computed again; otherwise the backward
pass computes each chunk again. Source: Hsu et al. 2024 (Liger Kernel, arXiv:2410.10989), who compute the gradients of
the weights along with the loss too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

LOGITS = 1 << 24
"""Logits in a chunk, 64 MiB in float32, where none is computed again."""
RECOMPUTED_ROWS = 2048
"""Tokens in a chunk that is computed again: with fewer, more tokens would be."""


def cross_entropy(language_model: nn.Module, hidden: Tensor, label: Tensor, *, vocabulary: int) -> Tensor:
    """Return the sum of the losses of `hidden` `[n, hidden]` against `label` `[n]`; `language_model` gives the logits
    `[n, vocabulary]`."""
    trains = torch.is_grad_enabled() and any(p.requires_grad for p in language_model.parameters())
    rows = RECOMPUTED_ROWS if trains else max(1, LOGITS // vocabulary)
    if len(label) <= rows:
        return _loss(language_model, hidden, label)
    if not trains and hidden.requires_grad:
        total: Tensor = _LossWithGradient.apply(hidden, label, language_model, rows)  # type: ignore[no-untyped-call]
        return total
    parts = zip(torch.split(hidden, rows), torch.split(label, rows), strict=True)
    if not trains:
        return torch.stack([_loss(language_model, h, y) for h, y in parts]).sum()
    return torch.stack([checkpoint(_loss, language_model, h, y, use_reentrant=False) for h, y in parts]).sum()


def token_losses(language_model: nn.Module, hidden: Tensor, label: Tensor, *, vocabulary: int) -> Tensor:
    """Return the loss of each token, `[n]`, for inputs as those of `cross_entropy`."""
    rows = max(1, LOGITS // vocabulary)
    parts = zip(torch.split(hidden, rows), torch.split(label, rows), strict=True)
    return torch.cat([_loss(language_model, h, y, "none") for h, y in parts])


def _loss(language_model: nn.Module, hidden: Tensor, label: Tensor, reduction: str = "sum") -> Tensor:
    return functional.cross_entropy(language_model(hidden).float(), label, reduction=reduction)


class _LossWithGradient(torch.autograd.Function):
    """The sum of the losses, whose gradient by the hidden states `[n, hidden]` is computed with it."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, label: Tensor, language_model: nn.Module, rows: int) -> Tensor:
        losses: list[Tensor] = []
        gradients: list[Tensor] = []
        for part, wanted in zip(torch.split(hidden, rows), torch.split(label, rows), strict=True):
            with torch.enable_grad():
                part = part.detach().requires_grad_()
                loss = _loss(language_model, part, wanted)
            gradients += torch.autograd.grad(loss, part)
            losses.append(loss.detach())
        ctx.save_for_backward(torch.cat(gradients))
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return outputs[0] * gradient, None, None, None
