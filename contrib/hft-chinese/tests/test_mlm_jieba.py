"""The head on a tiny BERT that reads characters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jieba
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional
from transformers import AutoModelForMaskedLM, AutoTokenizer

import hft_core
from hft_chinese.mlm_jieba import JiebaMaskedLanguageModelling, Options, build
from hft_chinese.segmentation import read_dictionary, segmenter
from hft_core import Catalogue, predict
from hft_core.backbone import Backbone, Features
from hft_core.head import Draw, Encoded

TEXT = "自然语言处理是人工智能领域中的重要方向。研究人员正在使用语言模型来预测词语。"
TERM = "模型来预测"
"""No word of any dictionary."""


@pytest.fixture
def backbone(bert: Path) -> Backbone:
    catalogue = Catalogue.discover()
    entry = catalogue.get("backbone", "hf-encoder")
    options = catalogue.load_options(entry).model_validate({"model": str(bert)})
    opened: Backbone = catalogue.load_factory(entry)(options, trust_remote_code=False)
    opened.trunk.eval()
    return opened


def ready(backbone: Backbone, **options: Any) -> JiebaMaskedLanguageModelling:
    head = build(Options(**options), task="language")
    head.learn({})
    head.attach(backbone)
    return head


def words_in(encoded: Encoded, backbone: Backbone) -> list[str]:
    """The words of the first row, put together from their tokens."""
    found: dict[int, str] = {}
    for sequence, words, row in zip(encoded.sequences, encoded.targets["words"], encoded.rows, strict=True):
        for token, word in zip(sequence, words, strict=True):
            if row == 0 and word >= 0:
                found[word] = found.get(word, "") + backbone.tokenizer.decode(token).removeprefix("##")
    return list(found.values())


def hidden_and_not(head: JiebaMaskedLanguageModelling, encoded: Encoded, epoch: int) -> list[tuple[set[int], set[int]]]:
    """Of each example, the positions to predict, and all positions of the words that they are in."""
    examples = range(len(encoded.rows))
    _, targets = head.collate(encoded.sequences, encoded.targets, examples, Draw(0, epoch))
    made = []
    for i, words in enumerate(encoded.targets["words"]):
        chosen = set(targets.tensors["position"][targets.tensors["sequence"] == i].tolist())
        made.append((chosen, {p for p, word in enumerate(words) if word in {words[p] for p in chosen}}))
    return made


def test_words_are_those_of_jieba_in_every_chunk(backbone: Backbone) -> None:
    text = f"{TEXT}berts {TEXT}"
    encoded = ready(backbone).encode({"text": [text, TEXT]}, backbone.tokenizer, 24)
    assert len(encoded.sequences) > 4
    assert words_in(encoded, backbone) == [word for word in jieba.cut(text) if word.strip()]


def test_a_word_is_hidden_entirely_or_not_at_all(backbone: Backbone) -> None:
    head = ready(backbone)
    encoded = head.encode({"text": [TEXT, TEXT * 3]}, backbone.tokenizer, 40)
    long = 0
    for epoch in range(10):
        for chosen, whole in hidden_and_not(head, encoded, epoch):
            assert chosen == whole
            long += len(chosen) > 1
    assert long > 10


def test_masks_differ_from_epoch_to_epoch_and_not_within_one(backbone: Backbone) -> None:
    head = ready(backbone)
    encoded = head.encode({"text": [TEXT * 2]}, backbone.tokenizer, 128)
    drawn = [head.collate(encoded.sequences, encoded.targets, [7], Draw(0, epoch))[0] for epoch in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_an_unknown_character_is_never_predicted(backbone: Backbone) -> None:
    head = ready(backbone, mask_probability=0.9)
    encoded = head.encode({"text": ["饕餮语言模型"]}, backbone.tokenizer, 24)
    _, targets = head.collate(encoded.sequences, encoded.targets, [0], Draw(0, 0))
    unknown = backbone.tokenizer.unk_token_id
    assert unknown in encoded.sequences[0]
    assert targets.count > 0
    assert unknown not in targets.tensors["label"].tolist()


def test_the_dictionary_of_one_task_is_not_that_of_another(backbone: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "terms.txt"
    path.write_text(f"\ufeff{TERM} 5 n\n\n人工智能领域\n", encoding="utf-8")
    own, plain = ready(backbone, dictionary=str(path)), ready(backbone)
    found = words_in(own.encode({"text": [TEXT]}, backbone.tokenizer, 128), backbone)
    assert {TERM, "人工智能领域"} <= set(found)
    assert TERM not in words_in(plain.encode({"text": [TEXT]}, backbone.tokenizer, 128), backbone)
    assert TERM not in jieba.cut(TEXT)
    assert own.facts == {"dictionary": [(TERM, 5), ("人工智能领域", None)]}


def test_unknown_words_are_guessed_unless_hmm_is_false() -> None:
    text = "他来到了网易杭研大厦"
    assert "杭研" in segmenter(()).cut(text, HMM=True)
    assert "杭研" not in segmenter(()).cut(text, HMM=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("云计算 5\n云 计 算\n".encode(), "line 2: found '云 计 算', expected WORD, WORD FREQUENCY"),
        ("云计算 0\n".encode(), r"line 1: .*\(a frequency of 1 or more\)"),
        ("云计算\n".encode("gb18030"), "is not UTF-8"),
        (b"\n\n", "has no words"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_faulty_dictionary_is_one_line(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "terms.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_dictionary(str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=message):
        build(Options(dictionary=str(path)), task="language").learn({})


@pytest.mark.parametrize("ngrams", [[], [0.5, 0.4], [1.2, -0.2], [float("nan"), 1.0]])
def test_shares_that_are_none_are_refused(ngrams: list[float]) -> None:
    with pytest.raises(ValidationError, match="a sum of 1"):
        Options(ngrams=ngrams)


def test_more_replaced_words_than_there_are_is_refused() -> None:
    with pytest.raises(ValidationError, match="their sum is at most 1"):
        Options(mask_replace=0.8, random_replace=0.3)


def test_equals_the_loss_of_transformers_on_the_same_masks(backbone: Backbone, bert: Path) -> None:
    head = ready(backbone)
    encoded = head.encode({"text": [TEXT]}, backbone.tokenizer, 128)
    shown, targets = head.collate(encoded.sequences, encoded.targets, [0], Draw(0, 3))
    ids = torch.tensor(shown)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    labels = torch.full_like(ids, -100)
    labels[0, targets.tensors["position"]] = targets.tensors["label"]
    plain = AutoModelForMaskedLM.from_pretrained(bert).eval()
    with torch.no_grad():
        hidden = backbone.forward(inputs)
        ours = head.loss(Features(hidden, ids, inputs["attention_mask"]), targets)
        theirs = functional.cross_entropy(plain(**inputs).logits[0], labels[0], ignore_index=-100, reduction="sum")
    assert targets.count == (labels != -100).sum() > 0
    assert float(ours) == pytest.approx(float(theirs), abs=1e-4)


def test_a_run_learns_the_language_and_does_without_its_dictionary_afterwards(bert: Path, tmp_path: Path) -> None:
    dictionary = tmp_path / "terms.txt"
    dictionary.write_text(f"{TERM}\n", encoding="utf-8")
    rows = [{"text": TEXT * (1 + i % 3)} for i in range(32)]
    recipe = {
        "backbone": str(bert),
        "tasks": {"language": {"head": {"type": "mlm-jieba", "dictionary": str(dictionary)}, "max_length": 96}},
        "stages": [{"strategy": "full", "max_steps": 12, "learning_rate": 1e-2}],
        "precision": "fp32",
    }
    splits = {"train": rows, "dev": rows[:8]}
    result = hft_core.run(recipe, output=tmp_path / "run", data={"language": splits})
    before, after = result.base_lm_loss["language"].values()
    assert after < 0.7 * before
    dictionary.unlink()
    opened = predict.open_run(tmp_path / "run", Catalogue.discover())
    again = predict.evaluate(opened, "language", rows[:8])
    assert again["loss"] == pytest.approx(after, abs=1e-4)
    text = AutoTokenizer.from_pretrained(tmp_path / "run" / "model" / "language")(TEXT, return_tensors="pt")
    logits = AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "model" / "language")(**text).logits
    assert logits.shape[-1] == len(opened.model.backbone.tokenizer)


def test_a_backbone_that_reads_forwards_only_is_refused(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "causal", True)
    with pytest.raises(ValueError, match="autoregressive"):
        ready(backbone)
