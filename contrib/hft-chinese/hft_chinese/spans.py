"""CLUENER2020 (Xu et al. 2020, arXiv:2001.04351): convert spans of a text to a tag for each character."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hft_chinese.labels import CLUENER
from hft_core.data import shown
from hft_core.errors import did_you_mean

Overlaps = Literal["refuse", "longest"]


class Span(NamedTuple):
    """The characters from `start` to `end`, exclusive (CLUENER's own `end` is inclusive)."""

    start: int
    end: int
    kind: str

    def in_words(self, text: str) -> str:
        return f"'{text[self.start : self.end]}' ({self.kind}, [{self.start}, {self.end - 1}])"


@dataclass(frozen=True)
class Spans:
    """`{"text": …, "label": {TYPE: {MENTION: [[first, last], …]}}}` to `words`, the characters, and `tags` in BIO.

    Blanks are no words: no head takes a blank one, and BERT's tokenizers drop them.
    """

    overlaps: Overlaps = "refuse"
    """What is done about spans that share characters, which tags cannot say: an error, or the longest one is kept."""

    def known(self, folder: Path) -> Mapping[str, str]:
        """The types of entities."""
        return dict.fromkeys(CLUENER, "")

    def unlabelled(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row with its `words`. Raises `ValueError` for a text that is missing or blank."""
        text = row.get("text")
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"'text' is {shown(text)}, expected a text that is not blank")
        others = {name: value for name, value in row.items() if name != "label"}
        return {**others, "words": [character for character in text if not character.isspace()]}

    def labelled(self, row: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any] | None:
        """Return the row with its `words` and `tags`. Raises `ValueError` for an invalid span."""
        made = self.unlabelled(row)
        text = made["text"]
        tags = ["O"] * len(text)
        for start, end, kind in self._apart(text, sorted(set(_spans(text, row.get("label"), known)))):
            inside = [i for i in range(start, end) if not text[i].isspace()]
            for i in inside:
                tags[i] = f"I-{kind}"
            tags[inside[0]] = f"B-{kind}"
        return {**made, "tags": [tag for tag, character in zip(tags, text, strict=True) if not character.isspace()]}

    def _apart(self, text: str, spans: Sequence[Span]) -> Sequence[Span]:
        """Return spans of which none overlaps another."""
        if self.overlaps == "longest":
            kept: list[Span] = []
            for span in sorted(spans, key=lambda span: span.start - span.end):
                if all(span.end <= other.start or other.end <= span.start for other in kept):
                    kept.append(span)
            return kept
        for one, other in pairwise(spans):
            if other.start < one.end:
                raise ValueError(
                    f"{one.in_words(text)} and {other.in_words(text)} overlap, expected spans that share no character "
                    "(overlaps: longest keeps the longer one)"
                )
        return spans


def _spans(text: str, label: Any, known: Mapping[str, str]) -> Iterator[Span]:
    """Return the spans of a row's `label`, each checked."""
    if not isinstance(label, dict):
        raise ValueError(f"'label' is {shown(label)}, expected {{TYPE: {{MENTION: [[first, last], …]}}}}")
    for kind, mentions in label.items():
        if kind not in known:
            raise ValueError(f"the type '{kind}' is unknown.{did_you_mean(kind, known)}")
        if not isinstance(mentions, dict):
            raise ValueError(f"'{kind}' holds {shown(mentions)}, expected {{MENTION: [[first, last], …]}}")
        for mention, places in mentions.items():
            for place in places if isinstance(places, list) else [places]:
                yield _span(text, kind, mention, place)


def _span(text: str, kind: str, mention: str, place: Any) -> Span:
    if not (isinstance(place, list) and len(place) == 2 and all(isinstance(end, int) for end in place)):
        raise ValueError(f"'{mention}' ({kind}) is at {shown(place)}, expected [first character, last character]")
    first, last = place
    there = text[first : last + 1] if 0 <= first <= last < len(text) else ""
    if there != mention or not mention.strip():
        raise ValueError(f"'{mention}' ({kind}) is said to be at [{first}, {last}], where {shown(there)} stands")
    return Span(first, last + 1, kind)
