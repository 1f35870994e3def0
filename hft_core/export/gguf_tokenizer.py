"""Say in the keys of a GGUF file how a text becomes tokens: vocabulary, merges or scores, and special tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase

if TYPE_CHECKING:
    from gguf import GGUFWriter

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens in GGUF."""
BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What stands for a space in a vocabulary of sentencepiece."""
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
SPLITS = {"llama-bpe": rf"{_WORDS}|\p{{N}}{{1,3}}{_REST}", "qwen2": rf"{_WORDS}|\p{{N}}{_REST}"}
"""Expressions that split a text before its bytes are merged, by the names that llama.cpp has for them."""
WHOLE_WORDS = "llama-bpe"
"""The split after which llama.cpp takes a part that is in the vocabulary as it is, without merges."""
WHOLE_BYTES = "gpt-2"
"""The split of GPT-2, which is that of the byte-level pre-tokenizer itself."""
SINGLE_DIGITS = "smollm"
"""The split of GPT-2 after each digit has been split off."""
PIECES = "default"
"""No split: pieces of sentencepiece are made of a whole text."""


class NotInGguf(ValueError):
    """A tokenizer that the keys of GGUF cannot describe; says why."""


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer."""

    model: str
    """`gpt2`: byte-level BPE, with `merges`; `llama`: BPE of sentencepiece, with `scores`."""
    pre: str
    """The name of the split before merges."""
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    add_space_prefix: bool = False
    add_bos: bool = False
    add_eos: bool = False


def vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """Describe a tokenizer; `size`: rows of the embeddings, which may be more than it has tokens.

    Raises `NotInGguf` with what has no key.
    """
    if not tokenizer.is_fast:
        raise NotInGguf("its tokenizer is not in the format of the tokenizers library")
    facts = json.loads(tokenizer.backend_tokenizer.to_str())
    model = facts["model"]
    if model["type"] != "BPE":
        raise NotInGguf(f"its tokenizer is of the type {model['type']}; expected BPE")
    tokens = [f"[PAD{i}]" for i in range(size)]
    for token, place in tokenizer.get_vocab().items():
        if place >= size:
            raise NotInGguf(f"its tokenizer has the token {token!r} with the id {place}, beyond the {size} embeddings")
        tokens[place] = token
    add_bos, add_eos = _added(tokenizer)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    if model.get("byte_fallback"):
        types = _types(tokens, facts, set(tokenizer.get_vocab().values()), unknown=model.get("unk_token"))
        prefix = _begins_with_space(facts)
        return Vocabulary("llama", PIECES, tokens, types, [], _scores(tokens, merges), prefix, add_bos, add_eos)
    types = _types(tokens, facts, set(tokenizer.get_vocab().values()))
    split = _split_name(facts)
    if model.get("ignore_merges") and split != WHOLE_WORDS:
        raise NotInGguf(f"its tokenizer takes whole words without merges, which llama.cpp does for {WHOLE_WORDS} only")
    return Vocabulary("gpt2", split, tokens, types, merges, add_bos=add_bos, add_eos=add_eos)


def add_vocabulary(writer: GGUFWriter, found: Vocabulary, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add a tokenizer's keys."""
    writer.add_tokenizer_model(found.model)
    writer.add_tokenizer_pre(found.pre)
    writer.add_token_list(found.tokens)
    writer.add_token_types(found.types)
    if found.merges:
        writer.add_token_merges(found.merges)
    if found.scores:
        writer.add_token_scores(found.scores)
        writer.add_add_space_prefix(found.add_space_prefix)
    writer.add_add_bos_token(found.add_bos)
    writer.add_add_eos_token(found.add_eos)
    special = (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
    )
    for place, add in special:
        if place is not None:
            add(place)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def split_as(tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Make `tokenizer`, which transformers read from `file`, split texts as llama.cpp does by the keys of that file:
    transformers knows some of its splits only, and takes no space before a text that begins with one."""
    from gguf import GGUFReader

    fields = GGUFReader(file).fields

    def value(name: str) -> Any:
        found = fields[f"tokenizer.ggml.{name}"]
        return found.parts[found.data[0]]

    backend, pre = tokenizer.backend_tokenizer, bytes(value("pre")).decode()
    if pre == PIECES:
        before = [normalizers.Prepend(SPACE)] if value("add_space_prefix")[0] else []
        backend.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", SPACE)])
        backend.pre_tokenizer = None
        return
    backend.model.ignore_merges = pre == WHOLE_WORDS
    parts: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if pre == SINGLE_DIGITS else []
    if pre in SPLITS:
        parts.append(pre_tokenizers.Split(Regex(SPLITS[pre]), behavior="isolated"))
    parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre not in SPLITS))
    backend.pre_tokenizer = pre_tokenizers.Sequence(parts)


def _split_name(facts: Mapping[str, Any]) -> str:
    """Return llama.cpp's name for how a byte-level tokenizer splits a text."""
    normalizer = facts["normalizer"]
    if normalizer is not None and normalizer["type"] != "NFC":
        raise NotInGguf(f"its byte-level tokenizer normalizes texts ({normalizer['type']}), which llama.cpp does not")
    found = facts["pre_tokenizer"] or {}
    parts = found["pretokenizers"] if found.get("type") == "Sequence" else [found]
    kinds = [part.get("type") for part in parts]
    last = parts[-1]
    if kinds[-1] != "ByteLevel" or last["add_prefix_space"]:
        raise NotInGguf("its BPE tokenizer neither falls back to bytes nor merges bytes as they stand")
    if kinds == ["ByteLevel"] and last["use_regex"]:
        return WHOLE_BYTES
    if kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"] and last["use_regex"]:
        return SINGLE_DIGITS
    if kinds == ["Split", "ByteLevel"] and not last["use_regex"] and parts[0]["behavior"] == "Isolated":
        expression = parts[0]["pattern"].get("Regex")
        name = next((name for name, known in SPLITS.items() if known == expression), None)
        if name is not None:
            return name
    known = ", ".join([WHOLE_BYTES, SINGLE_DIGITS, *SPLITS])
    raise NotInGguf(f"its tokenizer splits texts in another way than those known here ({known})")


def _types(tokens: Sequence[str], facts: Mapping[str, Any], used: set[int], *, unknown: str | None = None) -> list[int]:
    added = {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in facts["added_tokens"]}
    bytes_of_text = BYTES if facts["model"].get("byte_fallback") else frozenset()
    return [
        UNUSED
        if place not in used
        else UNKNOWN
        if token == unknown
        else added.get(place, BYTE if token in bytes_of_text else NORMAL)
        for place, token in enumerate(tokens)
    ]


def _scores(tokens: Sequence[str], merges: Sequence[str]) -> list[float]:
    """Return by which scores sentencepiece merges in the order of `merges`: the sooner a token is made, the higher."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", ""), rank)
    return [-float(ranks.get(token, len(merges))) for token in tokens]


def _begins_with_space(facts: Mapping[str, Any]) -> bool:
    """Tell whether a tokenizer puts a space before a text."""
    normalizer, split = facts["normalizer"] or {}, facts["pre_tokenizer"] or {}
    parts = normalizer.get("normalizers", [normalizer])
    prepends = any(part.get("type") == "Prepend" and part.get("prepend") == SPACE for part in parts)
    return prepends or (split.get("type") == "Metaspace" and split.get("prepend_scheme") != "never")


def _added(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool]:
    """Tell whether a tokenizer begins a text with its token for that, and ends it with its token for that."""
    text = "a"
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = tokenizer(text)["input_ids"]
    forms = {
        (bos, eos): [*([tokenizer.bos_token_id] if bos else []), *plain, *([tokenizer.eos_token_id] if eos else [])]
        for bos in (False, True)
        for eos in (False, True)
    }
    found = next((added for added, ids in forms.items() if ids == whole), None)
    if found is None:
        raise NotInGguf("its tokenizer adds other tokens to a text than one for its beginning and one for its end")
    return found
