"""Make small tokenizers from lists of words; trained ones would differ from process to process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""BERT's special tokens, in the order of their ids."""


def pieces_of(words: Iterable[str]) -> list[str]:
    """Split long words into two pieces."""
    return [piece for word in words for piece in ([word] if len(word) < 7 else [word[:4], f"##{word[4:]}"])]


def word_pieces(pieces: Iterable[str], *, model_max_length: int) -> PreTrainedTokenizerFast:
    """Make a WordPiece tokenizer like BERT's, with the tokens `SPECIAL` and the pieces, in this order."""
    names = dict.fromkeys([*SPECIAL, *pieces])
    tokenizer = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=model_max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def byte_pairs(
    special: Sequence[str],
    words: Iterable[str],
    *,
    add_prefix_space: bool,
    ending: str = "",
    post_processor: Any = None,
    **names: Any,
) -> PreTrainedTokenizerFast:
    """Make a byte-level BPE tokenizer like GPT-2's, in which each of `words` is one token. `Ġ` stands for the space
    before a word; `ending` is appended to each text, as in T5's."""
    known = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in known:
                known[word[:end]] = len(known)
                merges.append((word[: end - 1], word[end - 1]))
    tokenizer = Tokenizer(models.BPE(known, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    if ending:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {ending}", pair=f"$A {ending} $B {ending}", special_tokens=[(ending, known[ending])]
        )
    if post_processor is not None:
        tokenizer.post_processor = post_processor
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"], **names
    )
