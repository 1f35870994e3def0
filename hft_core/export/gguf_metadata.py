"""Say in the keys of a GGUF file what a decoder computes: llama.cpp's names for a configuration of transformers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from transformers import PretrainedConfig

if TYPE_CHECKING:
    from gguf import GGUFWriter

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""GGUF's name of an architecture, by transformers' `model_type`. Mistral is a Llama in GGUF."""
DECISIVE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "rope_parameters",
    "attention_bias",
    "mlp_bias",
    "vocab_size",
)
"""Fields of a configuration that decide what these architectures compute; not all have a key in GGUF."""


def add_config(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """Add the sizes, the rotary embedding and the length of context of a model of one of `ARCHITECTURES`."""
    heads = config.num_attention_heads
    width = head_width(config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(rope(config)["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def head_width(config: PretrainedConfig) -> int:
    """Return the size of a query or key of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def context_length(config: PretrainedConfig) -> int:
    """Return how many tokens the model reads as it does in transformers: a Llama in GGUF has no sliding window, so that
    one with a window is as it was up to the window's size."""
    positions: int = config.max_position_embeddings
    window = getattr(config, "sliding_window", None)
    return min(positions, window) if window else positions


def rope(config: PretrainedConfig) -> dict[str, Any]:
    """Return the parameters of the rotary embedding."""
    return dict(getattr(config, "rope_parameters", None) or {"rope_theta": 10000.0, "rope_type": "default"})


def first_difference(config: PretrainedConfig, read: PretrainedConfig) -> tuple[str, Any, Any] | None:
    """Return the first field that decides what a model computes and was `read` as something else than in `config`, with
    both values; a field that neither or one alone has is at its default there."""
    mine, theirs = _decisive(config), _decisive(read)
    return next(
        ((name, mine[name], theirs[name]) for name in mine if name in theirs and not _near(mine[name], theirs[name])),
        None,
    )


def _decisive(config: PretrainedConfig) -> dict[str, Any]:
    values = {name: getattr(config, name) for name in DECISIVE if hasattr(config, name)}
    return {**values, "head_dim": head_width(config), "rope_parameters": rope(config)}


def _near(one: Any, other: Any) -> bool:
    """Compare values, floats of them as float32, which GGUF holds."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_near(one[name], other[name]) for name in one)
    if isinstance(one, float) or isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return bool(one == other)
