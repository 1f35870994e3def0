"""What masked language modelling hides together: spans, and words that a segmenter finds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from hft_core.errors import PluginError
from hft_core.head import Draw
from hft_core.runs import assembly
from hft_plugins.backbones import encoder
from hft_plugins.backbones.options import EncoderOptions
from hft_plugins.heads.mlm import Options, build
from hft_plugins.heads.parts.masking import Kind, Masking

CHINESE = "自然语言处理是人工智能领域中的重要方向。研究人员正在使用语言模型来预测词语。"
MASK, VOCABULARY = 1, 1000


def masking(kind: Kind = "span", **changed: Any) -> Masking:
    settings = {"probability": 0.15, "mask_replace": 0.8, "random_replace": 0.1, **changed}
    return Masking(kind=kind, mask_token=MASK, vocabulary=VOCABULARY, special=np.array([0]), **settings)


def text_of(words: int, pieces: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Token ids, and each token's word, of a text between two special tokens."""
    owner = np.repeat(np.arange(words), pieces)
    return np.concatenate([[0], owner + 2, [0]]), np.concatenate([[-1], owner, [-1]])


def test_lengths_of_spans_are_geometric_up_to_ten_words() -> None:
    _, words = text_of(20_000)
    text = np.flatnonzero(words >= 0)
    random = np.random.default_rng(0)
    spans = [len(run) for _ in range(20) for run in masking(probability=0.02)._spans(text, words, random)]
    wanted = 0.2 * 0.8 ** np.arange(10)
    wanted /= wanted.sum()
    shares = np.bincount(spans, minlength=11)[1:] / len(spans)
    assert max(spans) == 10
    assert np.abs(shares - wanted).max() < 0.025
    assert np.mean(spans) == pytest.approx(3.8, abs=0.25)  # Joshi et al. 2020, section 3.1


def test_spans_hide_the_wanted_share_of_tokens_in_whole_words() -> None:
    ids, words = text_of(400, pieces=3)
    for seed in range(20):
        _, chosen = masking()(ids, words, np.random.default_rng(seed))
        assert 0.15 * 1200 <= len(chosen) < 0.15 * 1200 + 3
        assert len(np.unique(chosen)) == len(chosen)
        assert all(np.isin(np.flatnonzero(words == word), chosen).all() for word in np.unique(words[chosen]))


def test_a_span_becomes_masks_random_tokens_or_stays_as_a_whole() -> None:
    ids, words = text_of(4000)
    new, chosen = masking(probability=0.1, mask_replace=0.5, random_replace=0.25)(ids, words, np.random.default_rng(3))
    became = np.where(new[chosen] == MASK, "mask", np.where(new[chosen] == ids[chosen], "same", "random"))
    shares = [np.mean(became == kind) for kind in ("mask", "random", "same")]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.12)
    neighbours = np.flatnonzero(np.diff(chosen) == 1)
    alike = np.mean(became[neighbours] == became[neighbours + 1])
    assert alike > 0.9  # by chance: 0.375; two spans may touch


def test_a_short_text_gives_up_one_token_or_word_at_least() -> None:
    for kind in ("token", "whole-word", "span"):
        for count in (1, 2):
            ids, words = text_of(count, pieces=2)
            _, chosen = masking(kind)(ids, None if kind == "token" else words, np.random.default_rng(0))
            assert len(chosen) == (1 if kind == "token" else 2)


def test_special_tokens_alone_have_nothing_to_hide() -> None:
    ids = np.array([0, 0])
    for kind in ("token", "whole-word", "span"):
        new, chosen = masking(kind)(ids, None if kind == "token" else np.array([-1, -1]), np.random.default_rng(0))
        assert (new.tolist(), len(chosen)) == ([0, 0], 0)


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT whose tokenizer takes each Chinese character by itself."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: i for i, token in enumerate([*special, *dict.fromkeys(CHINESE), "bert", "##s"])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    folder = tmp_path_factory.mktemp("chinese")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertForMaskedLM(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["whole-word", "span"])
def test_words_of_chinese_are_those_of_the_segmenter(kind: str, chinese: Path) -> None:
    jieba = pytest.importorskip("jieba")
    backbone = encoder.build(EncoderOptions(model=str(chinese)))
    head = build(Options(masking=kind, segmenter="jieba"), task="t")
    head.attach(backbone)
    text = f"{CHINESE}berts {CHINESE}"
    encoded = head.encode({"text": [text, "语言"]}, backbone.tokenizer, 24)
    assert len(encoded.sequences) > 4
    assert encoded.rows[-1] == 1
    found: dict[int, str] = {}
    for sequence, words in zip(encoded.sequences[:-1], encoded.targets["words"][:-1], strict=True):
        for token, word in zip(sequence, words, strict=True):
            if word >= 0:
                found[word] = found.get(word, "") + backbone.tokenizer.decode(token).removeprefix("##")
    assert list(found.values()) == [word for word in jieba.cut(text) if word.strip()]
    assert "人工智能" in found.values()
    divided = 0
    for epoch in range(5):
        _, targets = head.collate(encoded.sequences, encoded.targets, range(len(encoded.rows)), Draw(0, epoch))
        for i, words in enumerate(encoded.targets["words"]):
            hidden = set(targets.tensors["position"][targets.tensors["sequence"] == i].tolist())
            for word in {words[p] for p in hidden}:
                pieces = {p for p, owner in enumerate(words) if owner == word}
                assert pieces <= hidden
                divided += len(pieces) > 1
    assert divided > 5


def test_without_a_segmenter_a_word_of_chinese_is_one_character(chinese: Path) -> None:
    backbone = encoder.build(EncoderOptions(model=str(chinese)))
    head = build(Options(masking="whole-word"), task="t")
    head.attach(backbone)
    encoded = head.encode({"text": [CHINESE]}, backbone.tokenizer, 64)
    assert encoded.targets["words"][0] == [-1, *range(len(CHINESE)), -1]


def test_a_segmenter_that_is_not_installed_is_refused_with_the_command_that_helps(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jieba", None)
    backbone = encoder.build(EncoderOptions(model=str(models["bert"])))
    head = build(Options(masking="span", segmenter="jieba"), task="t")
    with pytest.raises(PluginError, match=r"^task 't': .*pip install 'hft-core\[chinese\]'[^\n]*$"):
        assembly.attach(backbone, {"t": head})


def test_a_segmenter_for_single_tokens_is_refused() -> None:
    with pytest.raises(ValidationError, match="whole-word or span"):
        Options(segmenter="jieba")
