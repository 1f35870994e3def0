"""Rows of heads whose cells depend on one another, for the conformance suite."""

from __future__ import annotations

from typing import Any

import numpy as np

from hft_core.testing import CLASSES, sentence


def multiple_choice(count: int, seed: int) -> list[dict[str, Any]]:
    """Two or three choices, the right one of another class than the others."""
    random = np.random.default_rng((seed, 31))
    made = []
    for i in range(count):
        choices = [sentence(1, random) for _ in range(2 + i % 2)]
        right = int(random.integers(len(choices)))
        choices[right] = sentence(0, random)
        made.append({"choices": choices, "label": right})
    return made


def token_classification(count: int, seed: int) -> list[dict[str, Any]]:
    """Sentences in which an article and a word of a class are a chunk of that class's type."""
    random = np.random.default_rng((seed, 41))
    made = []
    for i in range(count):
        words = sentence(i % len(CLASSES), random).split()
        types = ["", *(next((name for name, some in CLASSES.items() if word in some), "") for word in words), ""]
        behind, own = types[2:], types[1:-1]
        tags = [f"I-{kind}" if kind else f"B-{nxt}" if nxt else "O" for kind, nxt in zip(own, behind, strict=True)]
        made.append({"words": words, "tags": tags})
    return made


def span(count: int, seed: int) -> list[dict[str, Any]]:
    """A sentence of each class; the question is a class, and the answer the first word of that class."""
    random = np.random.default_rng((seed, 43))
    names = list(CLASSES)
    made = []
    for i in range(count):
        asked = i % len(names)
        order = random.permutation(len(names)).tolist()
        sentences = [sentence(index, random) for index in order]
        answer = sentences[order.index(asked)].split()[1]
        start = len(" ".join([*sentences[: order.index(asked)], "the "]))
        row = {"question": names[asked], "context": " ".join(sentences)}
        made.append({**row, "answers.text": [answer], "answers.answer_start": [start]})
    return made


def ranking(count: int, seed: int) -> list[dict[str, Any]]:
    """Queries with four candidates each, of which those of one class are relevant."""
    random = np.random.default_rng((seed, 37))
    made = []
    for i in range(count):
        if i % 4 == 0:
            query = sentence(int(random.integers(2)), random)
        made.append({"query": query, "document": sentence(i % 2, random), "label": 1 - i % 2})
    return made


def instruction(count: int, seed: int) -> list[dict[str, Any]]:
    """Prompts of a word or two, which fit any length, and responses that need not fit."""
    random = np.random.default_rng((seed, 41))
    made = []
    for i in range(count):
        name = list(CLASSES)[i % len(CLASSES)]
        made.append({"prompt": str(random.choice(CLASSES[name])), "response": " ".join([name] * (1 + i % 8))})
    return made
