"""Compute attention with dropout on CPUs in the dtype of its inputs.

torch has no fused kernel for it: `scaled_dot_product_attention` then computes bfloat16 in float32, and looks for rows
that are masked completely, of which there are none. This is the `eager` attention of transformers with the masks of
`sdpa` and the dropout of `hft_core.cpu_dropout`.

In float32, with torch's dropout elsewhere, LoRA training steps of MiniLM-L6 (16 rows of 70 tokens) took 1.06 times as
long with `sdpa` (0.98 to 1.12 over 8 paired rounds), 1.07 in a second run (1.00 to 1.09), and 1.05 in full fine-tuning
of 32 such rows (0.96 to 1.08 over 6). Other shapes: 1.04 for 32 rows under LoRA, 1.04 and 1.01 for rows of 25 tokens.
CPU time, one thread of a busy AMD EPYC without fast bfloat16, 2026-11-29.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hft_core import cpu_dropout

NAME = "hft-sdpa"
"""Its name in transformers; whatever it does not cover, it leaves to `sdpa`."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend: `query`, `key`, `value` `[batch, heads, seq, d]` → `[batch, seq, heads, d]`, and no attention weights.

    `attention_mask`: `[batch, 1, seq, seq]`, true where a token is seen, or a number that is added to its score.
    """
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    if (
        not cpu_dropout.is_supported(query, dropout)
        or (causal and attention_mask is None)
        or _has_extra_inputs(options)
    ):
        settings = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal, **options}
        output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return output
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    kind = query.device.type
    if torch.is_autocast_enabled(kind):
        query, key, value = (each.to(torch.get_autocast_dtype(kind)) for each in (query, key, value))
    with torch.autocast(kind, enabled=False):  # autocast would compute the softmax in float32
        scores = (query * scale) @ key.transpose(2, 3)
        if attention_mask is not None:
            scores += _additive(attention_mask, scores.dtype)
        weights = cpu_dropout.dropout(scores.softmax(dim=-1), dropout)
        return (weights @ value).transpose(1, 2).contiguous(), None


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a boolean mask to one that is added to the scores."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


def _has_extra_inputs(options: dict[str, Any]) -> bool:
    return any(options.get(name) is not None for name in ("position_bias", "cache", "softcap", "s_aux"))


@contextmanager
def patched(trunk: nn.Module) -> Iterator[None]:
    """Use this attention in the trunk inside the context, where it would be `sdpa`."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    configs = {id(c): c for c in (getattr(m, "config", None) for m in trunk.modules()) if c is not None}
    patched_configs = [c for c in configs.values() if getattr(c, "_attn_implementation", None) == "sdpa"]
    for config in patched_configs:
        config._attn_implementation = NAME
    try:
        yield
    finally:
        for config in patched_configs:
            config._attn_implementation = "sdpa"
