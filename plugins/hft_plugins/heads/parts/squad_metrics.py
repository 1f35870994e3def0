"""How an answer is compared with the right ones: the measures of SQuAD's evaluation script.

By their definition in Rajpurkar et al. 2016, arXiv:1606.05250, and for questions without an answer in Rajpurkar et al.
2018, arXiv:1806.03822. In Chinese and Japanese each character counts as a word and punctuation of all scripts is left
out, as in MLQA's script (Lewis et al. 2020, arXiv:1910.07475); full-width forms equal the plain ones.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHARACTER = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
"""Kana and Chinese characters; Korean has blanks."""


def normalized(text: str) -> str:
    """Lower-cased, without punctuation and English articles, with single blanks, also around each Chinese character."""
    if _CHARACTER.search(text):
        text = "".join(c for c in unicodedata.normalize("NFKC", text) if not unicodedata.category(c).startswith("P"))
        text = _CHARACTER.sub(r" \g<0> ", text)
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(said: str, right: str) -> float:
    """1 where both texts are equal after normalization."""
    return float(normalized(said) == normalized(right))


def f1(said: str, right: str) -> float:
    """Of the words that both have; where one has none, 1 if neither has."""
    ours, theirs = normalized(said).split(), normalized(right).split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(ours), shared / len(theirs)
    return 2 * precision * recall / (precision + recall)


def best(measure: Callable[[str, str], float], said: str, answers: Sequence[str]) -> float:
    """The measure against the right answer that fits best; without any, what is right is to say nothing."""
    right = [answer for answer in answers if normalized(answer)] or [""]
    return max(measure(said, answer) for answer in right)
