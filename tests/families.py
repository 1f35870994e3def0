"""Tiny random models of the families that transformers has a class for, made from their configuration classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hft_core.testing.toy_tokenizers import byte_pairs, word_pieces

AUTO_CLASSES: dict[str, Any] = {
    "mlm": AutoModelForMaskedLM,
    "clm": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
}
"""The class with the LM head, by the head of a task that trains it."""
LARGEST = 1_500_000
"""Parameters of the largest model that is made."""

SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embed_dim", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("embedding_size", "input_embedding_size", "output_embedding_size", "dim_model"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), 2),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "ffn_dim", "hidden_dim"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "d_inner", "intermediate_dim"), 48),
    **dict.fromkeys(("d_kv", "head_dim", "d_head"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_encoder_position_embeddings"), 128),
    **dict.fromkeys(("max_decoder_position_embeddings",), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_shared_experts", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 16),
    **dict.fromkeys(("initializer_range", "init_std", "initializer_factor"), 0.1),
}
"""Values of the fields of configurations that have to do with size, by their names in the families."""

OVERRIDES: dict[str, dict[str, Any]] = {
    "big_bird": {"block_size": 4, "num_random_blocks": 1},
    "bigbird_pegasus": {"block_size": 4, "num_random_blocks": 1},
    "bailing_hybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "bloom": {"hidden_size": 32},
    "funnel": {"block_sizes": [1, 1], "num_hidden_layers": None, "num_decoder_layers": 1},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 32},
    "longformer": {"attention_window": 8},
    "led": {"attention_window": 8},
    "mobilebert": {"true_hidden_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 1},
    "reformer": {"axial_pos_embds_dim": (16, 16), "axial_pos_shape": (16, 8), "attn_layers": ["local", "local"]},
    "roc_bert": {"pronunciation_vocab_size": 10, "shape_vocab_size": 10, "pronunciation_embed_dim": 8}
    | {"shape_embed_dim": 8},
    "tapas": {"type_vocab_sizes": [2, 2, 2, 2, 2, 2, 2]},
    "mpt": {"max_seq_len": 128},
    "convbert": {"head_ratio": 1},
    "codegen": {"num_attention_heads": 4},
    "gptj": {"rotary_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "mamba2": {"num_heads": 4},
    "ministral": {"head_dim": 16},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_moe_text": {"layer_types": ["linear_attention", "full_attention"]},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "layoutlm": {"max_2d_position_embeddings": 16},
    "perceiver": {"num_latents": 8, "d_latents": 32},
    "nystromformer": {"segment_means_seq_len": 64, "num_landmarks": 8},
}


def names(kind: str) -> list[str]:
    """Return the model types for text that transformers has a class of this kind for: those with configurations inside
    their own are for images and sound as well, or put other families together."""
    return sorted({config.model_type for config in AUTO_CLASSES[kind]._model_mapping if not config.sub_configs})


def kinds() -> dict[str, str]:
    """Return all model types with an LM head, and the head that trains it."""
    found: dict[str, str] = {}
    for kind in ("seq2seq", "mlm", "clm"):
        found |= {name: kind for name in names(kind) if name not in found}
    return dict(sorted(found.items()))


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer that makes tokens of single letters or bytes."""
    if kind == "mlm":
        letters = [f"{start}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz" for start in ("", "##")]
        return word_pieces(letters, model_max_length=64)
    special = ["<pad>", "<s>", "</s>"]
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "</s>"}
    ending = "</s>" if kind == "seq2seq" else ""
    return byte_pairs(special, [], add_prefix_space=False, ending=ending, model_max_length=64, **named)


def configuration(family: str, words: PreTrainedTokenizerFast) -> PretrainedConfig:
    """Return the configuration of a tiny model of a family."""
    kind = CONFIG_MAPPING[family]
    default = kind()
    fields = {
        name: value
        for name, value in SIZES.items()
        if _is_number(getattr(default, name, None)) and not isinstance(getattr(kind, name, None), property)
    }
    fields |= {"vocab_size": len(words), "pad_token_id": words.pad_token_id}
    if words.bos_token_id is not None:
        fields |= {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    if getattr(default, "is_encoder_decoder", False):
        fields |= {"decoder_start_token_id": words.pad_token_id, "forced_eos_token_id": None}
    fields |= OVERRIDES.get(family, {})
    return kind(**{name: value for name, value in fields.items() if value is not None})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0  # XLNet has -1 positions


def save(family: str, folder: Path) -> str:
    """Write a tiny model of a family into `folder`; return why none can be made, or an empty string."""
    kind = kinds()[family]
    words = tokenizer(kind)
    try:
        config = configuration(family, words)
        auto = AUTO_CLASSES[kind]
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in auto.from_config(config).parameters())
        if size > LARGEST:
            return f"the model has {size:,} parameters"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            auto.from_config(config).save_pretrained(folder)
    except Exception as error:  # each family has errors of its own
        return f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
    words.save_pretrained(folder)
    return ""
