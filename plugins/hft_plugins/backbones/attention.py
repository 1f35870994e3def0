"""Attention with dropout on CPUs, in the number format of its inputs.

torch has no fused kernel for it: `scaled_dot_product_attention` computes bfloat16 in float32 then, and looks for rows
that are masked as a whole, of which there are none. What is computed here is what transformers calls `eager`, with the
masks of `sdpa`.
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

from hft_core.acceleration import fast_dropout

NAME = "hft-sdpa"
"""What transformers knows it by: `sdpa` in all cases but this one."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Tensor, Tensor | None]:
    """`query`, `key`, `value` `[batch, heads, seq, d]`, `attention_mask` `[batch, 1, seq, seq]`, true where a token is
    seen or added to the scores -> `[batch, seq, heads, d]`."""
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    if not fast_dropout.serves(query, dropout) or (causal and attention_mask is None) or _asks_for_more(more):
        settings = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal, **more}
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return found
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    kind = query.device.type
    if torch.is_autocast_enabled(kind):
        query, key, value = (each.to(torch.get_autocast_dtype(kind)) for each in (query, key, value))
    with torch.autocast(kind, enabled=False):  # its softmax would be one in float32
        scores = (query * scale) @ key.transpose(2, 3)
        if attention_mask is not None:
            scores += _added(attention_mask, scores.dtype)
        shares = scores.softmax(dim=-1)
        shares = shares * fast_dropout.factors(shares.shape, dropout, shares.dtype)
        return (shares @ value).transpose(1, 2).contiguous(), None


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What a mask adds to the scores."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


def _asks_for_more(more: dict[str, Any]) -> bool:
    return any(more.get(name) is not None for name in ("position_bias", "cache", "softcap", "s_aux"))


@contextmanager
def quick(trunk: nn.Module) -> Iterator[None]:
    """Inside, the trunk's attention is this one where it would be `sdpa`."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    configs = {id(each): each for each in (getattr(m, "config", None) for m in trunk.modules()) if each is not None}
    chosen = [each for each in configs.values() if getattr(each, "_attn_implementation", None) == "sdpa"]
    for config in chosen:
        config._attn_implementation = NAME
    try:
        yield
    finally:
        for config in chosen:
            config._attn_implementation = "sdpa"
