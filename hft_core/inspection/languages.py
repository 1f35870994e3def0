"""Guess the languages of texts by script and, in Latin script, by their most frequent words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

MIN_SHARE = 0.05
"""Of the texts; a language of fewer is not named."""

_SCRIPTS = {
    "Japanese": re.compile(r"[\u3040-\u30ff]"),
    "Korean": re.compile(r"[\uac00-\ud7af]"),
    "Chinese": re.compile(r"[\u3400-\u9fff]"),
    "Russian or another in Cyrillic": re.compile(r"[\u0400-\u04ff]"),
    "Arabic script": re.compile(r"[\u0600-\u06ff]"),
    "Greek": re.compile(r"[\u0370-\u03ff]"),
    "Hebrew": re.compile(r"[\u0590-\u05ff]"),
    "Hindi or another in Devanagari": re.compile(r"[\u0900-\u097f]"),
    "Thai": re.compile(r"[\u0e00-\u0e7f]"),
}
"""In this order: Japanese texts hold Chinese characters too."""
SCRIPT_SHARE = 0.15
"""Of the letters; a word of another script in a text does not make its language."""

_WORDS = {
    "English": "the and of to is in it that for was with this are you not have be on my but",
    "German": "der die das und ist nicht ich sie es ein eine mit auf zu den von für im auch sind wir",
    "French": "le la les et est une des du que pas je pour dans qui sur avec vous il nous au",
    "Spanish": "el los las que y es una por con para del se lo muy pero como más está su al",
    "Italian": "il che di è un per non una con sono della gli mi ma più questo anche del nel ho",
    "Portuguese": "o que não uma um com para os da do em é se mas muito por mais foi eu as",
    "Dutch": "het een van ik en niet dat te zijn op voor met ook maar als er naar wat deze dit",
}
_LISTS = {language: frozenset(words.split()) for language, words in _WORDS.items()}
_LETTERS = re.compile(r"[^\W\d_]+")


def language_of(text: str) -> str | None:
    """Return the language of a text; None where it is too short or not one of those that are known here."""
    letters = sum(map(len, _LETTERS.findall(text)))
    for language, script in _SCRIPTS.items():
        if letters and len(script.findall(text)) >= SCRIPT_SHARE * letters:
            return language
    words = Counter(_LETTERS.findall(text.lower()))
    found = {language: sum(words[word] for word in known) for language, known in _LISTS.items()}
    best = max(found, key=found.__getitem__)
    others = max(count for language, count in found.items() if language != best)
    return best if found[best] > others else None


def shares(texts: Iterable[str]) -> dict[str, float]:
    """Return the share of each language among the texts whose language is known, the largest first."""
    counts = Counter(language for text in texts if (language := language_of(text)))
    total = sum(counts.values())
    return {name: count / total for name, count in counts.most_common() if count >= MIN_SHARE * total}
