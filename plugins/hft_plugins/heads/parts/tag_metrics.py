"""Compute the metrics of tagged sentences: of the chunks that tags mark, or of plain tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hft_core.results import LabelScores
from hft_plugins.heads.parts.label_scores import label_scores
from hft_plugins.heads.parts.tag_notations import PLAIN

Sentences = list[list[str]]
"""A tag for each word; of plain tags, an empty one for a word without a prediction."""


def averages(truth: Sentences, said: Sentences, scheme: str, *, found: int) -> dict[str, float]:
    """Return precision, recall and F1 of all chunks together, and the accuracy of the words' tags; each plain tag is a
    chunk. `found`: words that have a prediction."""
    words = sum(map(len, truth))
    right = sum(a == b for t, s in zip(truth, said, strict=True) for a, b in zip(t, s, strict=True))
    if scheme == PLAIN:
        chunks = (right / max(found, 1), right / max(words, 1), 2 * right / max(found + words, 1))
    else:
        chunks = chunk_averages(truth, said, scheme)
    return {**dict(zip(("precision", "recall", "f1"), chunks, strict=True)), "accuracy": right / max(words, 1)}


def by_label(truth: Sentences, said: Sentences, scheme: str, labels: Sequence[str]) -> LabelScores:
    """Return the scores by type of chunk or, of plain tags, by tag."""
    if scheme != PLAIN:
        return chunk_scores(truth, said, scheme)
    ids = {label: i for i, label in enumerate([*labels, ""])}
    flat = ([ids[tag] for tags in sentences for tag in tags] for sentences in (truth, said))
    return {label: values for label, values in label_scores(list(ids), *flat).items() if label}


def chunk_scores(truth: list[list[str]], said: list[list[str]], scheme: str) -> LabelScores:
    """Return the scores of each type of chunk that the tags mark in `scheme`, by seqeval in its strict mode."""
    from seqeval.metrics.v1 import precision_recall_fscore_support  # slow to import
    from seqeval.scheme import Entities

    tokens = _tokens(scheme)
    columns = precision_recall_fscore_support(truth, said, scheme=tokens, average=None, zero_division=0)
    right, found = Entities(truth, tokens), Entities(said, tokens)
    kinds = sorted(right.unique_tags | found.unique_tags)
    return {
        kind: {
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "support": int(support),
            "predicted": len(found.filter(kind)),
        }
        for kind, precision, recall, f1, support in zip(kinds, *columns, strict=True)
    }


def chunk_averages(truth: list[list[str]], said: list[list[str]], scheme: str) -> tuple[float, float, float]:
    """Return precision, recall and F1 of all chunks together."""
    from seqeval.metrics.v1 import precision_recall_fscore_support  # slow to import

    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, said, scheme=_tokens(scheme), average="micro", zero_division=0
    )
    return float(precision), float(recall), float(f1)


def _tokens(scheme: str) -> Any:
    """Return seqeval's class of tags."""
    from seqeval.scheme import BILOU, IOB2, IOBES

    return {"bio": IOB2, "iobes": IOBES, "bilou": BILOU}[scheme]
