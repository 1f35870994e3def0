"""Make tiny model folders with random weights, and open them with an installed backbone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForPreTraining,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from hft_core.backbone import Backbone
from hft_core.plugins.catalogue import Catalogue, State
from hft_core.runtime.transformers_logs import quiet_transformers
from hft_core.testing.check import Failed
from hft_core.testing.toy_tokenizers import byte_pairs, pieces_of, word_pieces
from hft_core.testing.toys import vocabulary

WIDTH, LAYERS, POSITIONS = 16, 2, 64
TRUNKS = 2
"""A head or strategy is checked on at most so many of the trunks that it accepts."""


def _word_pieces() -> PreTrainedTokenizerFast:
    """Make a WordPiece tokenizer that spells unknown words."""
    marks = [chr(code) for code in range(33, 127)]
    pieces = [*pieces_of(vocabulary()), *marks, *(f"##{mark}" for mark in marks)]
    return word_pieces(pieces, model_max_length=POSITIONS)


def _byte_pairs(special: list[str], ending: str = "", **names: str) -> PreTrainedTokenizerFast:
    words = (f"Ġ{word}" for word in vocabulary())
    return byte_pairs(special, words, add_prefix_space=True, ending=ending, model_max_length=POSITIONS, **names)


def _bert() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = _word_pieces()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        max_position_embeddings=POSITIONS,
        initializer_range=0.1,
        pad_token_id=0,
    )
    return BertForPreTraining(config), tokenizer


def _llama() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = _byte_pairs(["<s>", "</s>"], bos_token="<s>", eos_token="</s>", pad_token="</s>")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return LlamaForCausalLM(config), tokenizer


def _t5() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer = _byte_pairs(special, "</s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=WIDTH // 2,
        d_ff=2 * WIDTH,
        num_layers=LAYERS,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=1,
    )
    config.decoder_start_token_id = 0
    return T5ForConditionalGeneration(config), tokenizer


FAMILIES: dict[str, Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerFast]]] = {
    "BERT": _bert,
    "Llama": _llama,
    "T5": _t5,
}
"""A bidirectional encoder, an autoregressive decoder, and an encoder with a decoder."""


@cache
def _place() -> tempfile.TemporaryDirectory[str]:
    """The directory of this process's model folders, removed when it ends."""
    return tempfile.TemporaryDirectory(prefix="hft-trunks-")


@cache
def folder(family: str) -> Path:
    """Return the folder of a family's tiny model, written at the first call."""
    path = Path(_place().name) / family.lower()
    with quiet_transformers(), torch.random.fork_rng():
        torch.manual_seed(1)
        model, tokenizer = FAMILIES[family]()
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
    return path


def backbone(catalogue: Catalogue, model: Path) -> Backbone | None:
    """Open `model` with the first usable backbone whose `opens` accepts it; None without one."""
    for entry in catalogue.seam("backbone"):
        opens = catalogue.load_opens(entry) if entry.state is State.OK else None
        if opens is not None and opens(str(model)):
            options = catalogue.load_options(entry).model_validate({"model": str(model)})
            opened: Any = catalogue.load_factory(entry)(options, trust_remote_code=False)
            assert isinstance(opened, Backbone)
            return opened
    return None


def families(catalogue: Catalogue) -> Iterator[str]:
    """List the families that a backbone of the catalogue opens. Raises `Failed` when there is none."""
    found = False
    for family in FAMILIES:
        entries = [entry for entry in catalogue.seam("backbone") if entry.state is State.OK]
        openers = [catalogue.load_opens(entry) for entry in entries]
        if any(opens is not None and opens(str(folder(family))) for opens in openers):
            found = True
            yield family
    if not found:
        raise Failed(f"expected an installed backbone that opens a tiny {', '.join(FAMILIES)}; found none")


def opened(catalogue: Catalogue, family: str) -> Backbone:
    """Open a fresh trunk of a family, in evaluation mode."""
    fresh = backbone(catalogue, folder(family))
    assert fresh is not None, "of a family that `families` listed"
    fresh.trunk.eval()
    return fresh
