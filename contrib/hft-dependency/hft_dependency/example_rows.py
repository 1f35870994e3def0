"""Rows that the head can learn, for the conformance suite."""

from __future__ import annotations

from typing import Any

import numpy as np

from hft_core.testing import sentence


def dependency(count: int, seed: int) -> list[dict[str, Any]]:
    """Toy sentences (`the cat saw the dog again`): articles hang on their nouns, nouns on the verb, which is the root,
    and what follows on the word before."""
    random = np.random.default_rng((seed, 47))
    made = []
    for i in range(count):
        words = sentence(i % 2, random).split()
        behind = range(6, len(words) + 1)
        heads = [2, 3, 0, 5, 3, *(word - 1 for word in behind)]
        relations = ["det", "nsubj", "root", "det", "obj", *("dep" for _ in behind)]
        made.append({"words": words, "heads": heads, "relations": relations})
    return made
