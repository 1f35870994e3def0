"""Tiny real models with random weights, and rows to learn from; conftest files make fixtures of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import processors
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForPreTraining,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    SplinterConfig,
    SplinterModel,
    T5Config,
    T5ForConditionalGeneration,
)

from hft_core.testing.toy_tokenizers import byte_pairs, pieces_of, word_pieces

SUBJECTS = {
    "animals": ("cat", "dog", "horse", "sparrow", "whale", "rabbit"),
    "money": ("bank", "market", "broker", "trader", "investor", "auditor"),
    "sport": ("striker", "goalkeeper", "runner", "swimmer", "referee", "champion"),
}
VERBS = ("saw", "followed", "remembered", "described", "surprised", "called")
ENDINGS = ("", "near the old river", "again", "in the early morning before anybody else had noticed it", "on friday")


def rows(count: int, seed: int = 0, classes: int = 3) -> list[dict[str, Any]]:
    """Sentences of uneven length: `text`, `other` (a second sentence), `label` (what the text is about), `fits` (yes or
    no: both are about the same) and `score` (which the text decides)."""
    random = np.random.default_rng((seed, 17))
    names = list(SUBJECTS)[:classes]
    made = []
    for _ in range(count):
        label, second = random.choice(names), random.choice(names)
        made.append(
            {
                "text": _sentence(label, random),
                "other": _sentence(second, random),
                "label": str(label),
                "fits": "yes" if label == second else "no",
                "score": float(names.index(label)) + float(random.normal(scale=0.1)),
            }
        )
    return made


def _sentence(label: Any, random: np.random.Generator) -> str:
    one, two = random.choice(SUBJECTS[str(label)], size=2)
    parts = ["the", one, random.choice(VERBS), "the", two, random.choice(ENDINGS)]
    return " ".join(str(part) for part in parts if part)


def _words() -> list[str]:
    """Every word of the sentences, each once, in a fixed order."""
    text = " ".join(["the", *VERBS, *ENDINGS, *(word for words in SUBJECTS.values() for word in words)])
    return list(dict.fromkeys(text.split()))


def _word_pieces() -> PreTrainedTokenizerFast:
    letters = [f"{start}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz" for start in ("", "##")]
    return word_pieces([*letters, *pieces_of(_words())], model_max_length=64)


def _byte_pairs(special: list[str], **settings: Any) -> PreTrainedTokenizerFast:
    words = [*(f"Ġ{word}" for word in _words()), "the"]
    return byte_pairs(special, words, add_prefix_space=False, **settings)


def _roberta_tokenizer() -> PreTrainedTokenizerFast:
    return _byte_pairs(
        ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        # By position: the second name changed in tokenizers 0.23.
        post_processor=processors.RobertaProcessing(("</s>", 2), ("<s>", 0)),
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=512,
    )


def _sizes(vocabulary: int, positions: int = 64) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": positions,
        "initializer_range": 0.1,
    }


def _bert(kind: type[PreTrainedModel]) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = _word_pieces()
    return kind(BertConfig(**_sizes(len(tokenizer)), pad_token_id=0)), tokenizer


def _distilbert() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = _word_pieces()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    config = DistilBertConfig(
        vocab_size=len(tokenizer), dim=32, hidden_dim=48, n_layers=2, n_heads=2, max_position_embeddings=64
    )
    return DistilBertForMaskedLM(config), tokenizer


def _roberta() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = _roberta_tokenizer()
    config = RobertaConfig(**_sizes(len(tokenizer), positions=66), pad_token_id=1, bos_token_id=0, eos_token_id=2)
    return RobertaForMaskedLM(config), tokenizer


def _modernbert() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = _word_pieces()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    config = ModernBertConfig(
        **_sizes(len(tokenizer)), pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3
    )
    return ModernBertForMaskedLM(config), tokenizer


def _splinter() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A family for which transformers has no LM head and no classifier."""
    tokenizer = _word_pieces()
    return SplinterModel(SplinterConfig(**_sizes(len(tokenizer)), pad_token_id=0)), tokenizer


def _llama() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = _byte_pairs(["<s>", "</s>"], bos_token="<s>", eos_token="</s>", model_max_length=64)
    sizes = _sizes(len(tokenizer))
    return LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=1, bos_token_id=0, eos_token_id=1)), tokenizer


def _gpt2() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    name = "<|endoftext|>"
    tokenizer = _byte_pairs([name], bos_token=name, eos_token=name, model_max_length=64)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config), tokenizer


def _falcon(alibi: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A family whose code asks which attention it was given by name."""
    tokenizer = _byte_pairs(["<s>", "</s>"], bos_token="<s>", eos_token="</s>", model_max_length=64)
    config = FalconConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        alibi=alibi,
        multi_query=not alibi,
        new_decoder_architecture=False,
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=1,
    )
    return FalconForCausalLM(config), tokenizer


def _t5(tied: bool = True) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """T5, or T5 1.1, whose LM head is its own and gets the hidden states unscaled."""
    tokenizer = _byte_pairs(
        ["<pad>", "</s>", "<unk>"],
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        ending="</s>",
        model_max_length=64,
    )
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=16,
        d_ff=48,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        feed_forward_proj="relu" if tied else "gated-gelu",
        tie_word_embeddings=tied,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config)
    if not tied:
        model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight))
    return model, tokenizer


def _bart() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = _roberta_tokenizer()
    tokenizer.model_max_length = 64
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        init_std=0.1,
        forced_eos_token_id=None,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    return BartForConditionalGeneration(config), tokenizer


MAKERS: dict[str, Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerFast]]] = {
    "bert": lambda: _bert(BertForPreTraining),
    "bert-without-head": lambda: _bert(BertModel),
    "distilbert": _distilbert,
    "roberta": _roberta,
    "modernbert": _modernbert,
    "splinter": _splinter,
    "llama": _llama,
    "gpt2": _gpt2,
    "falcon": lambda: _falcon(alibi=False),
    "falcon-alibi": lambda: _falcon(alibi=True),
    "t5": _t5,
    "t5-untied": lambda: _t5(tied=False),
    "bart": _bart,
}


class Models:
    """Model folders, each written when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            with torch.random.fork_rng():
                torch.manual_seed(1)
                model, tokenizer = MAKERS[name]()
            model.save_pretrained(path)
            tokenizer.save_pretrained(path)
        return path
