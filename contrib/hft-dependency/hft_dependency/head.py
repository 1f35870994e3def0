"""`dependency`: for each word of a sentence, the word that it depends on, and by which relation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from hft_core import options
from hft_core.backbone import Backbone, Features
from hft_core.data import as_label, as_list, as_number
from hft_core.errors import did_you_mean
from hft_core.head import Column, Draw, Encoded, Head, Targets
from hft_dependency import tree
from hft_dependency.biaffine import DeepBiaffine
from hft_dependency.words import first_tokens, text_of

NONE = -1
"""No word, no head: padding, and words whose head has no token."""


class Options(options.Options):
    """Columns and sizes; the latter are the paper's where they are left out."""

    words: str = Field(default="words", description="column of the words: a list, or a text divided at blanks")
    heads: str = Field(
        default="heads",
        description="column of each word's head: its number from 1, or 0 for the root; as many as words",
    )
    relations: str = Field(default="relations", description="column of each word's relation to its head")
    labels: tuple[str, ...] | None = Field(
        default=None,
        description="relations in the order of their ids; those of the training rows, sorted, when left out",
    )
    arc_mlp_size: int = Field(default=500, ge=1, description="size of the representations that arcs are scored from")
    label_mlp_size: int = Field(default=100, ge=1, description="size of those that relations are scored from")
    mlp_dropout: float = Field(default=0.33, ge=0, lt=1, description="dropout of both")


class Dependency(Head):
    """The graph-based parser of Dozat and Manning (2017, arXiv:1611.01734) on a trunk instead of its LSTM.

    A word is represented by its first token. The loss of a word is the cross-entropy of its head among all words and
    the root, and that of its relation to its true head. A parse is the tree with a single root whose arcs have the
    greatest sum of scores, each with its best relation.

    A word without a token (beyond `max_length`, or dropped by the tokenizer) is not trained on and no candidate for a
    head; in evaluation it counts as a word for which nothing was found.
    """

    main_metric = "las"

    def __init__(self, task: str, options: Options) -> None:
        super().__init__(task)
        self.options = options
        self.words = Column(options.words, "text", many=True, separator=" ")
        self.heads = Column(options.heads, "number", target=True, many=True, separator=" ")
        self.relations = Column(options.relations, "label", target=True, many=True, separator=" ")
        self.scorer: DeepBiaffine | None = None

    @property
    def labels(self) -> list[str]:
        """The relations; the position is the id."""
        labels: list[str] = self.facts["labels"]
        return labels

    # --- data

    def columns(self) -> Sequence[Column]:
        return [self.words, self.heads, self.relations]

    def learn(self, rows: Mapping[str, Sequence[Any]]) -> None:
        found = sorted({label for cell in rows[self.relations.name] for label in self._relations(cell)})
        labels = list(self.options.labels or found)
        if not labels:
            raise ValueError(f"column '{self.relations.name}' has no relations; expected one a word")
        self.facts = {"labels": labels}

    def check(self, row: Mapping[str, Any]) -> str:
        words = as_list(row[self.words.name], self.words)
        heads, relations = as_list(row[self.heads.name], self.heads), self._relations(row[self.relations.name])
        for column, values in ((self.heads, heads), (self.relations, relations)):
            if len(values) != len(words):
                return (
                    f"columns '{self.words.name}' and '{column.name}' differ in length: found {len(words)} words and "
                    f"{len(values)} {column.name}, expected one a word"
                )
        for i, head in enumerate(heads, start=1):
            if not as_number(head).is_integer():
                return f"column '{self.heads.name}', item {i}: found the head {head}, expected a whole number"
        fault = tree.fault(self._heads(heads))
        if fault:
            return f"column '{self.heads.name}': {fault}"
        for i, relation in enumerate(relations, start=1):
            if relation not in self.labels:
                return (
                    f"column '{self.relations.name}', item {i}: found the unknown relation '{relation}'; expected one "
                    f"of the {len(self.labels)} relations of the training rows.{did_you_mean(relation, self.labels)}"
                )
        return ""

    def _heads(self, cell: Any) -> list[int]:
        return [int(as_number(value)) for value in as_list(cell, self.heads)]

    def _relations(self, cell: Any) -> list[str]:
        return [as_label(value) for value in as_list(cell, self.relations)]

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        sentences = [as_list(cell, self.words) for cell in rows[self.words.name]]
        encoding = tokenizer(
            [text_of(words) for words in sentences],
            truncation=True,
            max_length=max_length,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        extra = {"token_type_ids": encoding["token_type_ids"]} if "token_type_ids" in encoding else {}
        firsts = [first_tokens(words, o) for words, o in zip(sentences, encoding["offset_mapping"], strict=True)]
        targets: dict[str, list[Any]] = {
            "position": [positions for positions, _ in firsts],
            "word": [words for _, words in firsts],
        }
        if self.heads.name in rows and self.relations.name in rows:
            ids = {label: i for i, label in enumerate(self.labels)}
            targets["head"] = [self._heads(cell) for cell in rows[self.heads.name]]
            targets["relation"] = [[ids[r] for r in self._relations(cell)] for cell in rows[self.relations.name]]
        return Encoded(encoding["input_ids"], list(range(len(sentences))), extra=extra, targets=targets)

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        """Tensors `[batch, words]` of the words that have a token: `position`, `word` (from 0), and of labelled rows
        `head` (0 for the root, i for the i-th of those words) and `relation`; `NONE` where there is none."""
        words = targets["word"]
        tensors = {"position": _table(targets["position"], filler=0), "word": _table(words)}
        if "head" not in targets:
            return sequences, Targets(0, tensors)
        heads = [_among(found, whole) for found, whole in zip(words, targets["head"], strict=True)]
        relations = [[whole[word] for word in found] for found, whole in zip(words, targets["relation"], strict=True)]
        tensors |= {"head": _table(heads), "relation": _table(relations)}
        return sequences, Targets(int((tensors["head"] != NONE).sum()), tensors)

    # --- model

    def attach(self, backbone: Backbone) -> None:
        self.scorer = DeepBiaffine(
            backbone.hidden_size,
            len(self.labels),
            arc_size=self.options.arc_mlp_size,
            label_size=self.options.label_mlp_size,
            dropout=self.options.mlp_dropout,
        )

    def arcs(self, features: Features, targets: Targets) -> tuple[Tensor, Tensor]:
        """The words `[batch, words, hidden]`, and `[batch, words, 1 + words]` scores of the root and the words as their
        heads; those of padding are minus infinity."""
        assert self.scorer is not None, "attach comes first"
        position, there = targets.tensors["position"], targets.tensors["word"] != NONE
        words = features.hidden.gather(1, position.unsqueeze(-1).expand(-1, -1, features.hidden.shape[-1]))
        candidates = functional.pad(there, (1, 0), value=True)
        return words, self.scorer.arcs(words).masked_fill(~candidates.unsqueeze(1), -torch.inf)

    def loss(self, features: Features, targets: Targets) -> Tensor:
        words, arcs = self.arcs(features, targets)
        assert self.scorer is not None
        head = targets.tensors["head"]
        labels = self.scorer.labels(words, head.clamp(min=0))
        relation = targets.tensors["relation"].masked_fill(head == NONE, NONE)
        return _cross_entropy(arcs, head) + _cross_entropy(labels, relation)

    def predict(self, features: Features, targets: Targets) -> list[Any]:
        """Of each example, `[word (from 0), head (0 for the root, otherwise a word's number from 1), relation id]` for
        each word that has a token."""
        words, arcs = self.arcs(features, targets)
        assert self.scorer is not None
        found = [[word for word in row if word != NONE] for row in targets.tensors["word"].tolist()]
        scores = arcs.detach().double().cpu().numpy()
        trees = [_tree(table, len(here)) for table, here in zip(scores, found, strict=True)]
        chosen = _table(trees, filler=0, width=words.shape[1]).to(words.device)
        relations = self.scorer.labels(words, chosen).argmax(dim=-1).tolist()
        return [
            [
                [word, 0 if head == tree.ROOT else here[head - 1] + 1, label]
                for word, head, label in zip(here, *rest, strict=False)
            ]
            for here, *rest in zip(found, trees, relations, strict=True)
        ]

    def answer(self, predictions: Sequence[Any], row: Mapping[str, Any]) -> dict[str, Any]:
        """`value`: for each word, its text, the number of its head, and the relation; both are null for a word without
        a token."""
        (said,) = predictions
        known = {word: (head, self.labels[label]) for word, head, label in said}
        words = as_list(row[self.words.name], self.words)
        parsed = [(word, *known.get(i, (None, None))) for i, word in enumerate(words)]
        return {"value": [dict(zip(("word", "head", "relation"), each, strict=True)) for each in parsed]}

    def metrics(self, predictions: Sequence[Any], references: Sequence[Any], loss: float) -> dict[str, float]:
        """Shares of all words, punctuation included: with the right head (`uas`), with the right head and relation
        (`las`), and without a token (`cut_words`)."""
        words = found = right_heads = right = 0
        for said, (heads, relations) in zip(predictions, references, strict=True):
            words, found = words + len(heads), found + len(said)
            right_heads += sum(head == heads[word] for word, head, _ in said)
            right += sum(head == heads[word] and label == relations[word] for word, head, label in said)
        total = max(words, 1)
        return {"loss": loss, "uas": right_heads / total, "las": right / total, "cut_words": 1 - found / total}

    def references(self, targets: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        return list(zip(targets["head"], targets["relation"], strict=True))


def _table(rows: Sequence[Sequence[int]], *, filler: int = NONE, width: int | None = None) -> Tensor:
    """`[rows, width]` of rows of uneven length; the longest one decides where the width is left out."""
    table = np.full((len(rows), max(map(len, rows)) if width is None else width), filler, dtype=np.int64)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(table)


def _among(found: Sequence[int], heads: Sequence[int]) -> list[int]:
    """The heads of the words `found` (from 0), by their place among those words (from 1)."""
    places = {tree.ROOT: tree.ROOT, **{word + 1: place for place, word in enumerate(found, start=1)}}
    return [places.get(heads[word], NONE) for word in found]


def _cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    """Summed over the words `[batch, words]` that have a target."""
    return functional.cross_entropy(scores.flatten(0, 1), target.flatten(), ignore_index=NONE, reduction="sum")


def _tree(scores: np.ndarray, words: int) -> list[int]:
    """The best tree of the first `words` of an example, from its scores `[words, 1 + words]`, padding included."""
    return tree.best_tree(np.pad(scores[:words, : words + 1], ((1, 0), (0, 0))))


def build(options: Options, *, task: str) -> Dependency:
    return Dependency(task, options)
