"""A tiny BERT that reads characters, and made-up rows in the shape of CLUE's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

Row = dict[str, Any]

TOPICS = {
    "103": ("news_sports", "球队教练门将进球比赛"),
    "104": ("news_finance", "银行利率基金股票储户"),
    "109": ("news_tech", "芯片手机屏幕系统软件"),
}
THINGS = ("还款日", "额度", "密码", "手机号", "利息")
PLACES, NAMES, COMPANIES = ("青石路", "白云街", "河东区"), ("李文", "张明", "王小红"), ("远山公司", "长风银行")
INFERENCES = {"entailment": "有人在{}", "contradiction": "没有人在{}", "neutral": "也许他喜欢{}"}
DEEDS = ("钓鱼", "唱歌", "读书", "跑步")
OTHERS = "的了是很怎么修改取消可以吗能不如何在两个孩子河边昨天到开家店从来自今年第一次被。"
TEXT = "自然语言处理是人工智能领域中的重要方向。研究人员正在使用语言模型来预测词语。"


def rows_of(task: str, count: int, seed: int = 0) -> list[Row]:
    """Rows that can be learned, with the fields of CLUE's."""
    random = np.random.default_rng((seed, 3))
    return [MAKERS[task](i, random) for i in range(count)]


def _tnews(i: int, random: np.random.Generator) -> Row:
    label = list(TOPICS)[i % 3]
    name, characters = TOPICS[label]
    words = [characters[j : j + 2] for j in range(0, len(characters), 2)]
    one, two = random.choice(words, size=2)
    sentence = f"{one}{random.choice(['的', '今年第一次被', '和昨天的'])}{two}"
    return {"label": label, "label_desc": name, "sentence": sentence, "keywords": str(one)}


def _afqmc(i: int, random: np.random.Generator) -> Row:
    one, two = random.choice(THINGS, size=2, replace=False)
    second = f"{one}可以改吗" if i % 2 else f"能不能取消{two}"
    return {"sentence1": f"怎么修改{one}", "sentence2": second, "label": str(i % 2)}


def _cmnli(i: int, random: np.random.Generator) -> Row:
    label = list(INFERENCES)[i % 3]
    deed = random.choice(DEEDS)
    return {"sentence1": f"两个孩子在河边{deed}", "sentence2": INFERENCES[label].format(deed), "label": label}


def _cluener(i: int, random: np.random.Generator) -> Row:
    name, place, company = (str(random.choice(names)) for names in (NAMES, PLACES, COMPANIES))
    text = f"{name}在{place}开了{company}。"
    spans = {"name": name, "address": place, "company": company}
    label = {kind: {part: [[text.index(part), text.index(part) + len(part) - 1]]} for kind, part in spans.items()}
    return {"text": text, "label": label}


MAKERS: dict[str, Callable[[int, np.random.Generator], Row]] = {
    "tnews": _tnews,
    "afqmc": _afqmc,
    "cmnli": _cmnli,
    "cluener": _cluener,
}


def write(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def made() -> Callable[..., list[Row]]:
    """`made(task, count, seed)`: rows."""
    return rows_of


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """`folder(train=rows, dev=rows, …)`: a folder with `train.json` and so on."""

    def written(name: str = "data", **files: list[Row]) -> Path:
        for file, rows in files.items():
            write(tmp_path / name / f"{file}.json", rows)
        return tmp_path / name

    return written


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with an LM head, whose tokens are characters."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    rows = json.dumps([rows_of(task, 60) for task in MAKERS], ensure_ascii=False)
    pieces = [mark for letter in "abcdefghijklmnopqrstuvwxyz" for mark in (letter, f"##{letter}")]
    known = [*special, *pieces, *sorted({c for c in rows + OTHERS + TEXT if ord(c) > 0x2000})]
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(dict.fromkeys(known))}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.decoder = decoders.WordPiece()
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    path = tmp_path_factory.mktemp("models") / "bert"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=128,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **names,
    ).save_pretrained(path)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        sizes = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "initializer_range": 0.1,
        }
        config = BertConfig(vocab_size=len(dict.fromkeys(known)), max_position_embeddings=128, pad_token_id=0, **sizes)
        BertForMaskedLM(config).save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The models are tiny: threads only get into each other's way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
