"""Make toy rows that a head can learn: the class of a row determines its words, labels and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hft_core.head import Column

CLASSES = {
    "animals": ("cat", "dog", "horse", "sparrow", "whale", "rabbit"),
    "money": ("bank", "market", "broker", "trader", "investor", "auditor"),
}
VERBS = ("saw", "followed", "remembered", "called")
ENDINGS = ("", "again", "near the old river", "in the early morning before anybody else")


def vocabulary() -> list[str]:
    """List every word of the texts once, in a fixed order."""
    words = [word for group in CLASSES.values() for word in group]
    return list(dict.fromkeys(["the", *CLASSES, *words, *VERBS, *" ".join(ENDINGS).split()]))


def rows(columns: Sequence[Column], count: int, seed: int) -> list[dict[str, Any]]:
    """Make rows with a value in every column, of alternating classes.

    An input text is a sentence of the class's words, a target text the class's name; a label is the class's name, a
    number its index with noise; a conversation is a sentence answered with the name. A column with `many` holds a few
    words, one label, or a proportion for each class.
    """
    random = np.random.default_rng((seed, 29))
    names = list(CLASSES)
    table = []
    for i in range(count):
        index = i % len(names)
        table.append({column.name: _cell(column, index, random) for column in columns})
    return table


def sentence(index: int, random: np.random.Generator) -> str:
    """Make a sentence about class `index`, of varying length."""
    one, two = random.choice(CLASSES[list(CLASSES)[index]], size=2)
    parts = ["the", one, random.choice(VERBS), "the", two, random.choice(ENDINGS)]
    return " ".join(str(part) for part in parts if part)


def _cell(column: Column, index: int, random: np.random.Generator) -> Any:
    name = list(CLASSES)[index]
    if column.kind == "messages":
        return [{"role": "user", "content": sentence(index, random)}, {"role": "assistant", "content": name}]
    if column.kind == "tools":
        return [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
    if column.kind == "number":
        noise = float(random.normal(scale=0.05))
        return [abs(1.0 - index - abs(noise)), abs(index - abs(noise))] if column.many else index + noise
    if column.kind == "label":
        return [name] if column.many else name
    if column.many:
        return [str(word) for word in random.choice(CLASSES[name], size=int(random.integers(3, 7)))]
    return name if column.target else sentence(index, random)
