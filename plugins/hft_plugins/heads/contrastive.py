"""`contrastive`: train text embeddings with in-batch negatives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from hft_core import options
from hft_core.backbone import Backbone, Features, PooledOutput, Pooler
from hft_core.data import as_list
from hft_core.head import Column, Draw, Encoded, Head, Targets
from hft_plugins.heads.parts.example_groups import group_of, identity
from hft_plugins.heads.parts.pooling import Pool, Pooling, pooler_of
from hft_plugins.heads.parts.sequence_head import tokenize_texts

METRIC_ANCHORS = 1024
"""Anchors per similarity matrix in evaluation; bounds its memory."""

SAME_POSITIVE = "the anchor and its positive have the same tokens: the pair teaches nothing"
SAME_NEGATIVE = "a negative has the tokens of the anchor or of its positive, and is left out"


class Options(options.Options):
    """Options of `contrastive`: columns, embedding and loss."""

    text: str | tuple[str, str] = Field(
        default="text",
        description="column of the anchor and column of its positive; with one column a text is its own positive under "
        "another dropout mask (SimCSE)",
    )
    negatives: str | tuple[str, ...] = Field(
        default=(), description="hard negatives of each pair: the column of a list of them, or one column per negative"
    )
    separator: str = Field(default="", description="separator of negatives in one text cell, as in a CSV file")
    temperature: float = Field(
        default=0.05, gt=0, description="divides the cosine similarities; sentence-transformers' `scale` is its inverse"
    )
    symmetric: bool = Field(
        default=False, description="average the loss with that of retrieving each positive's anchor"
    )
    pooling: Pooling | None = Field(
        default=None,
        description="pooling of the hidden states; the backbone's own when left out, or mean (causal: last)",
    )
    projection_dim: int | None = Field(
        default=None, ge=1, description="size of a linear projection of the pooled hidden states"
    )


class Contrastive(Head):
    """InfoNCE with in-batch negatives (van den Oord et al. 2018, arXiv:1807.03748; sentence-transformers'
    MultipleNegativesRankingLoss) over all rows of a step, however it is divided into batches. With one column it is
    unsupervised SimCSE (Gao et al. 2021, arXiv:2104.08821).

    A row is a unit of examples: the anchor, its positive, its hard negatives. An anchor's candidates are the positives
    and hard negatives of all rows; what would be a false negative by its tokens is left out: the same text as the
    anchor's or the positive's, and the positive of an anchor with the same text.
    """

    joint = True

    def __init__(self, task: str, options: Options) -> None:
        super().__init__(task)
        self.options = options
        self.texts = (options.text, options.text) if isinstance(options.text, str) else options.text
        self.supervised = not isinstance(options.text, str)
        self.main_metric = "mrr" if self.supervised else "loss"
        self.greater_is_better = self.supervised
        listed = isinstance(options.negatives, str)
        names = (options.negatives,) if isinstance(options.negatives, str) else options.negatives
        self.negatives = [Column(n, "text", target=True, many=listed, separator=options.separator) for n in names]
        self.pool: Pooler | None = None
        self.projection: nn.Linear | None = None

    def columns(self) -> Sequence[Column]:
        anchor, positive = self.texts
        pair = [Column(positive, "text", target=True)] if self.supervised else []
        return [Column(anchor, "text"), *pair, *self.negatives]

    def learn(self, rows: Mapping[str, Sequence[Any]]) -> None:
        """Raises `ValueError` where all rows have the same positive: what equals an anchor's own is no negative."""
        if self.supervised and len(positives := rows[self.texts[1]]) > 1 and len({p.strip() for p in positives}) == 1:
            raise ValueError(
                f"column '{self.texts[1]}': all {len(positives)} rows have the same text, expected different "
                "positives: each anchor's is told apart from those of the others"
            )
        for column in self.negatives:
            if column.many and not any(as_list(cell, column) for cell in rows[column.name]):
                self.warnings.append(f"column '{column.name}': no row has a negative")

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        names = [name for name in self.texts if name in rows]
        units = [list(texts) for texts in zip(*(rows[name] for name in names), strict=True)]
        if len(names) == len(self.texts):
            for column in self.negatives:
                for unit, cell in zip(units, rows.get(column.name, ()), strict=False):
                    unit += as_list(cell, column) if column.many else [cell]
        row_of = [i for i, unit in enumerate(units) for _ in unit]
        sequences, extra = tokenize_texts([[text for unit in units for text in unit]], tokenizer, max_length)
        targets = {
            "position": [place for unit in units for place in range(len(unit))],
            "text": [identity(np.asarray(sequence).tobytes()) for sequence in sequences],
        }
        notes = _notes(row_of, targets["position"], targets["text"])
        return Encoded(sequences, row_of, units=row_of, extra=extra, targets=targets, notes=notes)

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        tensors = {name: torch.tensor(values) for name, values in targets.items()}
        return sequences, Targets(targets["position"].count(1), tensors)

    def attach(self, backbone: Backbone) -> None:
        self.pool = pooler_of(backbone, self.options.pooling)
        if self.options.projection_dim is not None:
            self.projection = nn.Linear(self.pool.size, self.options.projection_dim, bias=False)

    def embed(self, features: Features) -> Tensor:
        """Return the normalized embeddings `[examples, d]`, in float32."""
        assert self.pool is not None, "attach comes first"
        pooled: Tensor = self.pool(features)
        projected = pooled if self.projection is None else self.projection(pooled).float()
        return functional.normalize(projected, dim=1)

    def loss(self, features: Features, targets: Targets) -> Tensor:
        return self.joint_loss(self.embed(features), targets)

    def joint_loss(self, embeddings: Tensor, targets: Targets) -> Tensor:
        pairs = _Pairs(targets.tensors["position"], targets.tensors["text"])
        with torch.autocast(embeddings.device.type, enabled=False):
            logits = embeddings[pairs.anchors] @ embeddings[pairs.candidates].T / self.options.temperature
        logits = logits.masked_fill(pairs.false_negatives(), -math.inf)
        loss = functional.cross_entropy(logits, pairs.positive, reduction="sum")
        if not self.options.symmetric:
            return loss
        backwards = logits[:, pairs.positive].T
        anchors = torch.arange(len(backwards), device=logits.device)
        return (loss + functional.cross_entropy(backwards, anchors, reduction="sum")) / 2

    def outputs(self, features: Features) -> dict[str, Tensor]:
        return {"embedding": self.embed(features)}

    def pooled_output(self) -> PooledOutput | None:
        if not isinstance(self.pool, Pool):
            return None
        weight = None if self.projection is None else self.projection.weight
        return PooledOutput(self.pool.pooling, weight, normalize=True)

    def decode(self, outputs: Mapping[str, Tensor], targets: Targets) -> list[Any]:
        return outputs["embedding"].tolist()

    def answer(self, predictions: Sequence[Any], row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the anchor's embedding."""
        return {"value": predictions[0]}

    def references(self, targets: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        """Each example's place in its row and the number of its text."""
        return list(zip(targets["position"], targets["text"], strict=True))

    def metrics(self, predictions: Sequence[Any], references: Sequence[Any], loss: float) -> dict[str, float]:
        """How often an anchor's positive is the nearest of all candidates in the split, and the mean reciprocal rank.
        With one column, whose positives are equal to their anchors when dropout is off, there is only the loss."""
        if not self.supervised:
            return {"loss": loss}
        embeddings = torch.tensor(predictions)
        position, text = torch.tensor(references).unbind(dim=1)
        pairs = _Pairs(position, text)
        first_of_text, ranks = pairs.first_of_text(), []
        for start in range(0, len(pairs.anchors), METRIC_ANCHORS):
            chunk = slice(start, start + METRIC_ANCHORS)
            similar = embeddings[pairs.anchors[chunk]] @ embeddings[pairs.candidates].T
            own = pairs.positive[chunk, None]
            rivals = (similar >= similar.gather(1, own)) & first_of_text & ~pairs.false_negatives(chunk)
            ranks.append(1 + rivals.scatter(1, own, False).sum(dim=1))
        rank = torch.cat(ranks).double()
        return {"loss": loss, "accuracy": float((rank == 1).double().mean()), "mrr": float((1 / rank).mean())}


def _notes(rows: Sequence[int], positions: Sequence[int], texts: Sequence[int]) -> dict[int, str]:
    """Return notes on rows whose positive, or a negative, is no other text than it is compared with."""
    found: dict[int, str] = {}
    own: tuple[int, ...] = ()
    for row, position, text in zip(rows, positions, texts, strict=True):
        if position == 1 and text == own[0]:
            found[row] = SAME_POSITIVE
        elif position > 1 and text in own:
            found[row] = SAME_NEGATIVE
        own = (text,) if position == 0 else (*own, text) if position == 1 else own
    return found


class _Pairs:
    """Which examples are anchors, which are candidates, and which candidate is whose."""

    def __init__(self, position: Tensor, text: Tensor) -> None:
        """`position`, `text`: `[examples]`."""
        unit = group_of(position)
        self.anchors = (position == 0).nonzero().squeeze(1)
        """`[anchors]` example numbers."""
        self.candidates = (position > 0).nonzero().squeeze(1)
        """`[candidates]` example numbers."""
        self.positive = (position[self.candidates] == 1).nonzero().squeeze(1)
        """`[anchors]`: for each its own positive's place among the candidates."""
        self._anchor_text, self._text = text[self.anchors], text[self.candidates]
        self._unit, self._is_positive = unit[self.candidates], position[self.candidates] == 1

    def first_of_text(self) -> Tensor:
        """`[candidates]`: mask the first candidate of each text, so that duplicates count once."""
        firsts = np.unique(self._text.numpy(), return_index=True)[1]
        return torch.zeros(len(self._text), dtype=torch.bool).scatter(0, torch.from_numpy(firsts), True)

    def false_negatives(self, anchors: slice = slice(None)) -> Tensor:
        """`[anchors, candidates]`: mask the candidates that equal the anchor's own positive by their text."""
        text, positive = self._anchor_text[anchors], self.positive[anchors]
        same = (self._text == text[:, None]) | (self._text == self._text[positive][:, None])
        same |= self._is_positive & (self._anchor_text[self._unit] == text[:, None])
        return same.scatter(1, positive[:, None], False)


def build(options: Options, *, task: str) -> Contrastive:
    return Contrastive(task, options)
