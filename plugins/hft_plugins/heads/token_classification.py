"""`token-classification`: a tag for each word (named entities, chunks, parts of speech)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hft_core import options
from hft_core.backbone import Backbone, Features
from hft_core.data import as_label, as_list
from hft_core.head import Column, Draw, Encoded, Targets
from hft_core.results import LabelScores
from hft_plugins.heads.parts import (
    class_weights,
    tag_metrics,
    tag_notations,
    tag_schemes,
    tagged_rows,
    token_overlap,
    windows,
)
from hft_plugins.heads.parts.class_weights import CLASS_WEIGHTS_FIELD, LABEL_SMOOTHING_FIELD, ClassWeights
from hft_plugins.heads.parts.example_groups import group_of
from hft_plugins.heads.parts.label_ids import LabelNames, config_of, first_rows, ids_of, in_order, refuse_alike, unknown
from hft_plugins.heads.parts.tag_notations import PLAIN, USUAL, Notation
from hft_plugins.heads.parts.token_head import PositionHead

WINDOW = "window"
"""The target that has the index of each window in its row."""


class Options(options.Options):
    """Options of `token-classification`: columns and tags."""

    words: str = Field(default="words", description="column of the words: a list, or a text split at whitespace")
    tags: str = Field(
        default="tags", description="column of the tags, one per word: a list, or a text split at whitespace"
    )
    scheme: Literal["auto", "bio", "iob1", "iobes", "bilou", "bmes", "ioe1", "ioe2", "plain"] = Field(
        default="auto",
        description="tagging scheme (plain: tags without chunks); auto: detected in the training rows",
    )
    repair: bool = Field(
        default=False, description="repair tags that violate the scheme as conlleval does, instead of refusing the row"
    )
    labels: LabelNames | None = Field(
        default=None, description="tags in the order of their ids; those of the training rows' scheme when left out"
    )
    window: windows.Overlap | None = Field(
        default=None,
        description="read a text of more than max_length tokens in windows of max_length, instead of cutting it; each "
        "word in the one where it has the most context",
    )
    class_weights: ClassWeights | None = CLASS_WEIGHTS_FIELD
    label_smoothing: float = LABEL_SMOOTHING_FIELD


class TokenClassification(PositionHead):
    """Cross-entropy at the first token of each word, as AutoModelForTokenClassification with -100 at the others.

    A word without a token (beyond `max_length`, or dropped by the tokenizer) is not trained on. In evaluation it counts
    as a word for which nothing was found: `O`, or for plain tags no tag at all.
    """

    main_metric = "f1"

    def __init__(self, task: str, options: Options) -> None:
        super().__init__(task)
        self.options = options
        self.predicts_units = self.chunks_long_texts = options.window is not None
        self.words = Column(options.words, "text", many=True, separator=" ")
        self.tags = Column(options.tags, "label", target=True, many=True, separator=" ")

    @property
    def labels(self) -> list[str]:
        """The tags; the position is the id."""
        labels: list[str] = self.facts["labels"]
        return labels

    @property
    def scheme(self) -> str:
        """The scheme of `labels`; IOB1 and IOE are learned as BIO, BMES as IOBES."""
        return str(self.facts["scheme"])

    @property
    def read_as(self) -> str:
        """The scheme of the rows."""
        return str(self.facts["read_as"])

    @property
    def notation(self) -> Notation:
        """How the rows write a tag."""
        return tag_notations.of_facts(self.facts)

    # --- data

    def columns(self) -> Sequence[Column]:
        return [self.words, self.tags]

    def learn(self, rows: Mapping[str, Sequence[Any]]) -> None:
        """Facts: the `labels`, their `scheme`, the scheme that the rows are `read_as` and, unless it is the usual one,
        their `notation`."""
        name, given = self.tags.name, self.options.labels or ()
        sentences = [self._cell_tags(cell) for cell in rows[name]]
        found = first_rows(sentences)
        words = [as_list(cell, self.words) for cell in rows[self.words.name]]
        tagged_rows.refuse_misread(words, sentences, self.words.name, name)
        refuse_alike(found, name, named=given)
        read_as, notation = self._scheme_of(sentences)
        if read_as == PLAIN and self.options.scheme == "auto":
            self.warnings += tagged_rows.without_chunks(sentences, name)
        scheme = tag_schemes.LEARNED_AS.get(read_as, read_as)
        tags = {notation.read(tag, read_as) for tag in found}
        labels = in_order(tags) if scheme == PLAIN else tag_schemes.tags_of(tag_schemes.types_of(tags), scheme)
        labels = [notation.read(tag, read_as) for tag in given] or labels
        if len(labels) < 2:
            raise ValueError(
                f"column '{name}' has {', '.join(map(repr, labels)) or 'no tags'} only; "
                "expected two different tags or more"
            )
        self.facts = {"labels": labels, "scheme": scheme, "read_as": read_as, **notation.fact()}
        if self.options.class_weights is not None:
            found_tags = (tag for cell in rows[name] for tag in self._learned(self._tags(cell)))
            self.facts["class_weights"] = class_weights.of_classes(self.options.class_weights, self.labels, found_tags)

    def _scheme_of(self, sentences: Sequence[Sequence[str]]) -> tuple[str, Notation]:
        """Return the scheme and notation of the training rows."""
        scheme = self.options.scheme
        if scheme == "auto":
            return tag_notations.detect(sentences, self.tags.name)
        if scheme == PLAIN:
            return scheme, USUAL
        return scheme, tag_notations.notation_of(Counter(tag for tags in sentences for tag in tags))

    def classes_of(self, row: Mapping[str, Any]) -> Collection[str]:
        """Return the types of the chunks, and the tags that mark none."""
        tags = self._cell_tags(row[self.tags.name])
        if self.options.scheme == PLAIN:
            return set(tags)
        return {tag_notations.kind_of(tag) for tag in tags}

    def check(self, row: Mapping[str, Any]) -> str:
        words, written = as_list(row[self.words.name], self.words), self._cell_tags(row[self.tags.name])
        if len(words) != len(written):
            return (
                f"columns '{self.words.name}' and '{self.tags.name}' differ in length: found {len(words)} words and "
                f"{len(written)} tags, expected one tag a word"
            )
        tags = self._tags(row[self.tags.name])
        for known, found in ((self._known(), tags), (self.labels, self._learned(tags))):
            i = next((i for i, tag in enumerate(found) if tag not in known), None)
            if i is not None:
                return unknown(f"column '{self.tags.name}', item {i + 1}: found", written[i], self.labels)
        broken = self._fault(tags)
        if broken is None:
            return ""
        i, right = broken
        before = f"behind '{written[i - 1]}'" if i else "at the start"
        return (
            f"column '{self.tags.name}', item {i + 1}: found '{written[i]}' {before}, expected "
            f"'{self.notation.written(right, self.read_as)}' in the scheme {self.read_as.upper()} (repair: true reads "
            "it so)"
        )

    def _known(self) -> Sequence[str]:
        """Return the tags that rows may have."""
        if not self.read_as.startswith("ioe"):
            return self.labels
        return tag_schemes.tags_of(tag_schemes.types_of(self.labels), "ioe2")

    def _fault(self, tags: list[str]) -> tuple[int, str] | None:
        """Return the first tag that breaks the rules of the rows' scheme, and what it would have to be. IOB1 is read as
        it is: no tag of it is ambiguous."""
        if self.options.repair or self.scheme == PLAIN or self.read_as == "iob1":
            return None
        return tag_schemes.fault(tags, self.scheme if self.read_as == "bmes" else self.read_as)

    def _cell_tags(self, cell: Any) -> list[str]:
        """Return the tags as the row writes them."""
        return [as_label(value) for value in as_list(cell, self.tags)]

    def _tags(self, cell: Any) -> list[str]:
        """Return the tags with the letter in front."""
        notation, read_as = self.notation, self.read_as
        written = self._cell_tags(cell)
        if read_as == PLAIN or (notation == USUAL and read_as != "bmes"):
            return written
        return [notation.read(tag, read_as) for tag in written]

    @property
    def _converts(self) -> bool:
        """The tags of the rows are rewritten: they were to be repaired, or their scheme has other letters."""
        return self.scheme != PLAIN and (self.options.repair or self.read_as in ("iob1", "ioe1", "ioe2"))

    def _learned(self, tags: list[str]) -> list[str]:
        """Return the tags of a sentence as they are trained on."""
        return tag_schemes.write(tag_schemes.read(tags), len(tags), self.scheme) if self._converts else tags

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        sentences = [as_list(cell, self.words) for cell in rows[self.words.name]]
        texts, overlap = [" ".join(words) for words in sentences], self.options.window
        if overlap is not None:
            found = windows.divide([texts], tokenizer, max_length, overlap, offsets=True)
            return found.encoded(self._targets(_in_windows(sentences, found), found.rows, rows, found.position))
        encoding = tokenizer(
            texts, truncation=True, max_length=max_length, return_offsets_mapping=True, return_attention_mask=False
        )
        extra = {"token_type_ids": encoding["token_type_ids"]} if "token_type_ids" in encoding else {}
        firsts = [first_tokens(words, o) for words, o in zip(sentences, encoding["offset_mapping"], strict=True)]
        of_rows = list(range(len(sentences)))
        return Encoded(encoding["input_ids"], of_rows, extra=extra, targets=self._targets(firsts, of_rows, rows))

    def _targets(
        self,
        firsts: Sequence[Sequence[tuple[int, int]]],
        of_rows: Sequence[int],
        rows: Mapping[str, Sequence[Any]],
        windows_of_rows: Sequence[int] | None = None,
    ) -> dict[str, list[Any]]:
        """Return the targets of examples; `firsts`: the first token of each word in each. The labels of a row's words
        are those of its first window."""
        targets: dict[str, list[Any]] = {
            "position": [[position for position, _ in first] for first in firsts],
            "word": [[word for _, word in first] for first in firsts],
        }
        if windows_of_rows is not None:
            targets[WINDOW] = list(windows_of_rows)
        if self.tags.name in rows:
            ids = ids_of(self.labels)
            labels = [[ids[tag] for tag in self._learned(self._tags(cell))] for cell in rows[self.tags.name]]
            begins = [True] * len(of_rows) if windows_of_rows is None else [at == 0 for at in windows_of_rows]
            targets["label"] = [labels[row] if begin else [] for row, begin in zip(of_rows, begins, strict=True)]
        return targets

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        places = [
            (i, position, word)
            for i, (positions, words) in enumerate(zip(targets["position"], targets["word"], strict=True))
            for position, word in zip(positions, words, strict=True)
        ]
        table = torch.tensor(places, dtype=torch.long).reshape(-1, 3)
        tensors = dict(zip(("sequence", "position", "word"), table.unbind(1), strict=True))
        begins = list(range(len(sequences)))
        if WINDOW in targets:
            tensors[WINDOW] = torch.tensor(targets[WINDOW])
            begins = [i - at for i, at in enumerate(targets[WINDOW])]
        if "label" not in targets:
            return sequences, Targets(0, tensors)
        labels = [targets["label"][begins[i]][word] for i, _, word in places]
        return sequences, Targets(len(labels), {**tensors, "label": torch.tensor(labels, dtype=torch.long)})

    # --- model

    def attach(self, backbone: Backbone) -> None:
        self.attach_positions(backbone, len(self.labels), "AutoModelForTokenClassification")

    def loss(self, features: Features, targets: Targets) -> Tensor:
        """`targets` holds `sequence`, `position` and `label` of each word, `[words]`."""
        return self._word_losses(features, targets, "sum")

    def losses(self, features: Features, targets: Targets) -> Tensor | None:
        words = self._word_losses(features, targets, "none")
        rows, count = _rows_of(targets, len(features.input_ids))
        return words.new_zeros(count).index_add(0, rows, words)

    def _word_losses(self, features: Features, targets: Targets, reduction: str) -> Tensor:
        logits = _of_words(self.raw_outputs(features), targets)
        weights, smoothing = self.facts.get("class_weights"), self.options.label_smoothing
        return class_weights.cross_entropy(logits, targets.tensors["label"], weights, smoothing, reduction)

    def outputs(self, features: Features) -> dict[str, Tensor]:
        """`logits`: `[batch, seq, labels]`; those of a word are at its first token."""
        return {"logits": self.raw_outputs(features)}

    def decode(self, outputs: Mapping[str, Tensor], targets: Targets) -> list[Any]:
        """Of each row, `[word, label id]` for each word that has a token."""
        rows, count = _rows_of(targets, len(outputs["logits"]))
        said: list[list[list[int]]] = [[] for _ in range(count)]
        best = _of_words(outputs["logits"], targets).argmax(dim=1).tolist()
        for row, word, label in zip(rows.tolist(), targets.tensors["word"].tolist(), best, strict=True):
            said[row].append([word, label])
        return said

    def answer(self, predictions: Sequence[Any], row: Mapping[str, Any]) -> dict[str, Any]:
        """`value`: a tag a word. `entities`: the chunks that they mark, from word `start` to word `end`, exclusive."""
        (said,) = predictions
        words = as_list(row[self.words.name], self.words)
        tags = self._full(said, len(words))
        if self.scheme == PLAIN:
            return {"value": tags}
        entities = [
            {"label": kind, "text": " ".join(words[start:end]), "start": start, "end": end}
            for start, end, kind in tag_schemes.well_formed(tags, self.scheme)
        ]
        return {"value": tags, "entities": entities}

    def _full(self, said: Sequence[Sequence[int]], length: int) -> list[str]:
        """Return a tag for each of `length` words; `O`, or for plain tags none, for words without a prediction."""
        tags = ["" if self.scheme == PLAIN else "O"] * length
        for word, label in said:
            tags[word] = self.labels[label]
        return tags

    def metrics(self, predictions: Sequence[Any], references: Sequence[Any], loss: float) -> dict[str, float]:
        """Of chunks, by seqeval in its strict mode, micro-averaged; of plain tags, each word is a chunk. `accuracy` is
        that of the words' tags, `cut_words` the share of words that have no token."""
        truth, said = self._as_tags(predictions, references)
        words, found = sum(map(len, truth)), sum(map(len, predictions))
        scores = tag_metrics.averages(truth, said, self.scheme, found=found)
        return {"loss": loss, **scores, "cut_words": 1 - found / max(words, 1)}

    def by_label(self, predictions: Sequence[Any], references: Sequence[Any]) -> LabelScores:
        return tag_metrics.by_label(*self._as_tags(predictions, references), self.scheme, self.labels)

    def _as_tags(
        self, predictions: Sequence[Any], references: Sequence[Any]
    ) -> tuple[list[list[str]], list[list[str]]]:
        """Return the tags of each sentence's words, and those that were predicted."""
        truth = [[self.labels[label] for label in reference] for reference in references]
        return truth, [self._full(p, len(t)) for p, t in zip(predictions, truth, strict=True)]

    def references(self, targets: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        return targets["label"]

    def config(self) -> dict[str, Any]:
        return config_of(self.labels)


def _of_words(logits: Tensor, targets: Targets) -> Tensor:
    """Select from `[batch, seq, labels]` the logits `[words, labels]` of all words that have a token."""
    return logits[targets.tensors["sequence"], targets.tensors["position"]]


def _rows_of(targets: Targets, examples: int) -> tuple[Tensor, int]:
    """Return the row of each word, `[words]`, and the number of rows of a batch."""
    sequence = targets.tensors["sequence"]
    if WINDOW not in targets.tensors:
        return sequence, examples
    row = group_of(targets.tensors[WINDOW])
    return row[sequence], int(row[-1]) + 1


def _in_windows(sentences: Sequence[Sequence[str]], found: windows.Divided) -> list[list[tuple[int, int]]]:
    """(position, word) of the first token of each word, in the one window that the word is read in."""
    offsets, sequences = found.of("offset_mapping"), found.of("input_ids")
    firsts: list[list[tuple[int, int]]] = []
    for row, group in groupby(range(len(found.rows)), key=found.rows.__getitem__):
        own = list(group)
        places = [{word: (at, offsets[i][at][0]) for at, word in first_tokens(sentences[row], offsets[i])} for i in own]
        chosen = windows.most_context(places, [len(sequences[i]) for i in own])
        firsts += [[(at, word) for word, at in words.items()] for words in chosen]
    return firsts


def first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(position, word) of the first token of each word, from the tokens' `offsets` in the words joined by blanks.

    So each tokenizer sees a text as it was pre-trained on, also those that make a blank part of the word behind it.
    """
    return token_overlap.first_token_of_each(offsets, token_overlap.words_in(words))


def build(options: Options, *, task: str) -> TokenClassification:
    return TokenClassification(task, options)
