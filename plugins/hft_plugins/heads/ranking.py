"""`ranking`: how relevant a document is to a query, learned so that the relevant ones come first."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hft_core import options
from hft_core.backbone import Backbone, Features
from hft_core.data import as_label, as_number
from hft_core.head import Column, Draw, Encoded, Targets
from hft_plugins.heads.parts.example_groups import identity, table
from hft_plugins.heads.parts.number_targets import problem_of_target
from hft_plugins.heads.parts.ranking_data import relevance_oddities
from hft_plugins.heads.parts.ranking_losses import LOSSES, RankingLoss, listwise
from hft_plugins.heads.parts.sequence_head import POOLING_FIELD, SequenceHead, SequenceOptions
from hft_plugins.heads.parts.sequence_scorer import PoolingOption


class Options(options.Options):
    """Options of `ranking`: columns, loss and metrics."""

    query: str = Field(default="query", description="column of the query")
    document: str = Field(default="document", description="column of a candidate document")
    label: str = Field(default="label", description="column of the relevance, a number from 0 (not relevant) upwards")
    group_by: str | None = Field(
        default=None, description="column that groups the rows of one query; the query itself when left out"
    )
    loss: Literal["pointwise", "pairwise", "listwise"] = Field(
        default="pointwise",
        description="pointwise: binary cross-entropy where no relevance is above 1, otherwise squared error; pairwise: "
        "RankNet; listwise: ListNet",
    )
    group_size: int = Field(
        default=16, ge=2, description="pairwise, listwise: most candidates of a query that are compared at once"
    )
    temperature: float | None = Field(
        default=0.2,
        gt=0,
        description="listwise: the relevances of a query are scaled to 0…1 and divided by this before their softmax; "
        "null: its relevances as they are",
    )
    k: int = Field(default=10, ge=1, description="cut-off of ndcg@k and recall@k")
    pooling: PoolingOption = POOLING_FIELD


class Ranking(SequenceHead):
    """Score a document for a query.

    - `pointwise`: each row by itself, as cross-encoders are commonly trained.
    - `pairwise`: log(1 + exp(s_j - s_i)) over a query's pairs in which i is more relevant than j (RankNet, Burges et
      al. 2005).
    - `listwise`: cross-entropy between the softmax of a query's relevances and that of its scores (ListNet, Cao et al.
      2007). With relevances of 0 and 1 taken as they are, the target is nearly uniform: of ten candidates with two
      clicks, a click has 0.20 and the loss can fall from 2.30 to 2.19 at best. `temperature` sharpens it.

    In the last two, a group of candidates of equal relevance does not contribute to the loss.
    """

    target_dtype = torch.float32

    def __init__(self, task: str, options: Options) -> None:
        super().__init__(task, SequenceOptions(text=(options.query, options.document), label=options.label))
        self.options = options
        self.main_metric = f"ndcg@{options.k}"
        self._single: set[str] = set()

    @property
    def group_column(self) -> str:
        return self.options.group_by or self.options.query

    @property
    def compares(self) -> bool:
        """The loss compares the candidates of a query with one another."""
        return self.options.loss != "pointwise"

    def columns(self) -> Sequence[Column]:
        group = [Column(self.options.group_by, "label")] if self.options.group_by is not None else []
        return [*self.text_columns(), *group, Column(self.options.label, "number", target=True)]

    def learn(self, rows: Mapping[str, Sequence[Any]]) -> None:
        """Facts: `max_relevance`. Raises `ValueError` where the loss has nothing to compare."""
        queries: dict[str, list[float]] = defaultdict(list)
        for query, cell in zip(rows[self.group_column], rows[self.options.label], strict=True):
            queries[as_label(query)].append(as_number(cell))
        self.facts = {"max_relevance": max(map(max, queries.values()))}
        if self.compares:
            self._single = {query for query, relevances in queries.items() if len(relevances) == 1}
            if not self._single and all(len(set(relevances)) == 1 for relevances in queries.values()):
                raise ValueError(
                    f"column '{self.options.label}': in no query do two candidates differ in relevance, from which "
                    f"alone the loss '{self.options.loss}' learns"
                )
        self.warnings += relevance_oddities(list(queries.values()), self.options.label)

    def check(self, row: Mapping[str, Any]) -> str:
        relevance, found = as_number(row[self.options.label]), f"column '{self.options.label}': found"
        if relevance < 0:
            return f"{found} the relevance {relevance:g}, expected a number from 0 upwards"
        if problem := problem_of_target(relevance, self.options.label):
            return problem
        if not self.compares and relevance > 1 >= self.facts["max_relevance"]:
            return f"{found} the relevance {relevance:g}, expected at most 1 as in the training rows"
        if as_label(row[self.group_column]) in self._single:
            return (
                f"column '{self.group_column}': the query has this one candidate only, expected two or more for the "
                f"loss '{self.options.loss}'"
            )
        return ""

    def targets_of(self, cells: Sequence[Any]) -> list[float]:
        return [as_number(cell) for cell in cells]

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        encoded = super().encode(rows, tokenizer, max_length)
        if "target" not in encoded.targets:
            return encoded
        queries = rows[self.group_column]
        units = self._units(queries, encoded.targets["target"])
        order = [i for unit in units for i in unit]
        targets = {
            "target": [encoded.targets["target"][i] for i in order],
            "query": [identity(as_label(queries[i]).encode()) for i in order],
            "position": [place for unit in units for place in range(len(unit))],
        }
        return Encoded(
            [encoded.sequences[i] for i in order],
            order,
            units=[number for number, unit in enumerate(units) for _ in unit],
            extra={name: [values[i] for i in order] for name, values in encoded.extra.items()},
            targets=targets,
        )

    def _units(self, queries: Sequence[Any], relevances: Sequence[float]) -> list[list[int]]:
        """Rows that are compared: each by itself, or those of a query, at most `group_size`
        together. Relevant ones are dealt out evenly, since a unit of one relevance teaches nothing."""
        if not self.compares:
            return [[i] for i in range(len(queries))]
        groups: dict[str, list[int]] = {}
        for i, query in enumerate(queries):
            groups.setdefault(as_label(query), []).append(i)
        units = []
        for group in groups.values():
            ordered = sorted(group, key=lambda i: -relevances[i])
            parts = -(-len(ordered) // self.options.group_size)
            units += [ordered[part::parts] for part in range(parts)]
        return units

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        if not targets:
            return sequences, Targets(0, {})
        position = torch.tensor(targets["position"])
        relevance = torch.tensor(targets["target"], dtype=self.target_dtype)
        count = self.objective.count(table(relevance, position, math.nan))
        return sequences, Targets(count, {"target": relevance, "position": position})

    def attach(self, backbone: Backbone) -> None:
        self.attach_outputs(backbone, 1, self.options.pooling)

    @property
    def objective(self) -> RankingLoss:
        if self.options.loss == "listwise":
            return listwise(self.options.temperature)
        if self.options.loss == "pairwise":
            return LOSSES["pairwise"]
        return LOSSES["bce" if self.facts["max_relevance"] <= 1 else "mse"]

    def scores(self, features: Features) -> Tensor:
        """Return the scores `[batch]`."""
        return self.raw_outputs(features).squeeze(1)

    def loss(self, features: Features, targets: Targets) -> Tensor:
        position, relevance = targets.tensors["position"], targets.tensors["target"]
        return self.objective.loss(table(self.scores(features), position, 0.0), table(relevance, position, math.nan))

    def outputs(self, features: Features) -> dict[str, Tensor]:
        return {"score": self.scores(features)}

    def decode(self, outputs: Mapping[str, Tensor], targets: Targets) -> list[Any]:
        return outputs["score"].tolist()

    def answer(self, predictions: Sequence[Any], row: Mapping[str, Any]) -> dict[str, Any]:
        (score,) = predictions
        return {"value": score}

    def references(self, targets: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        """The number of each example's query, and the relevance."""
        return list(zip(targets["query"], targets["target"], strict=True))

    def metrics(self, predictions: Sequence[Any], references: Sequence[Any], loss: float) -> dict[str, float]:
        """Means over the queries that have a relevant document (of a relevance above 0); 0 where none has. Documents of
        equal score stand in the worst order, but for nDCG and average precision, in which scikit-learn has its own
        way."""
        queries: dict[Any, list[tuple[float, float]]] = defaultdict(list)
        for (query, relevance), score in zip(references, predictions, strict=True):
            queries[query].append((score, relevance))
        found = [self._of_query(*np.array(pairs).T) for pairs in queries.values() if any(r > 0 for _, r in pairs)]
        names = (self.main_metric, "mrr", "map", f"recall@{self.options.k}")
        means = np.mean(found, axis=0) if found else np.zeros(len(names))
        return {"loss": loss, **dict(zip(names, means.tolist(), strict=True))}

    def _of_query(self, scores: np.ndarray, relevances: np.ndarray) -> tuple[float, ...]:
        """nDCG@k, reciprocal rank, average precision and recall@k of one query's candidates `[n]`."""
        from sklearn.metrics import average_precision_score, ndcg_score  # slow to import

        k, relevant = self.options.k, relevances > 0
        ordered = relevant[np.lexsort((relevances, -scores))]
        return (
            float(ndcg_score([relevances], [scores], k=k)) if len(scores) > 1 else 1.0,
            float(1 / (1 + ordered.argmax())),
            float(average_precision_score(relevant, scores)),
            float(ordered[:k].sum() / ordered.sum()),
        )

    def config(self) -> dict[str, Any]:
        """One label, as cross-encoders have."""
        return {"id2label": {0: self.options.label}, "label2id": {self.options.label: 0}}


def build(options: Options, *, task: str) -> Ranking:
    return Ranking(task, options)
