"""`multilabel`: several classes, or none, for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from hft_core.backbone import Backbone, Features
from hft_core.data import as_label, as_list
from hft_core.head import Column, Draw, Encoded, Targets
from hft_plugins.heads.parts.label_names import config_of, in_order, unknown
from hft_plugins.heads.parts.sequence_head import ScoringHead, SequenceOptions, tokenize_texts


class Options(SequenceOptions):
    """Options of `multilabel`: columns and threshold."""

    separator: str = Field(default=",", description="separator of the labels in a text cell (a list is read as it is)")
    threshold: float = Field(default=0.5, gt=0, lt=1, description="least probability of a predicted label")
    labels: tuple[str, ...] | None = Field(
        default=None,
        description="label names in the order of their ids; those of the training rows, sorted, when left out",
    )


class Multilabel(ScoringHead):
    """Predict labels by binary cross-entropy on one logit per label; each label of each row is a target of the loss."""

    main_metric = "f1_micro"

    def __init__(self, task: str, options: Options) -> None:
        super().__init__(task)
        self.options = options
        self.label_column = Column(options.label, "label", target=True, many=True, separator=options.separator)

    @property
    def labels(self) -> list[str]:
        """Label names; the position is the id."""
        labels: list[str] = self.facts["labels"]
        return labels

    def columns(self) -> Sequence[Column]:
        return [*(Column(name, "text") for name in self.options.texts), self.label_column]

    def learn(self, rows: Mapping[str, Sequence[Any]]) -> None:
        given = self.options.labels
        found = {name for cell in rows[self.options.label] for name in self._of(cell)}
        labels = list(given) if given else in_order(found)
        if len(labels) < 2:
            some = f"one label only ('{labels[0]}')" if labels else "no label in any row"
            raise ValueError(f"column '{self.options.label}' has {some}; expected two labels or more")
        self.facts = {"labels": labels}

    def check(self, row: Mapping[str, Any]) -> str:
        names = self._of(row[self.options.label])
        odd = next((name for name in names if name not in self.labels), None)
        return "" if odd is None else unknown(f"column '{self.options.label}' holds", odd, self.labels)

    def _of(self, cell: Any) -> list[str]:
        """Return the label names in a cell."""
        return [as_label(value) for value in as_list(cell, self.label_column)]

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        sequences, extra = tokenize_texts([rows[name] for name in self.options.texts], tokenizer, max_length)
        ids = {label: i for i, label in enumerate(self.labels)}
        targets: dict[str, list[Any]] = {}
        if self.options.label in rows:
            table = np.zeros((len(sequences), len(ids)))
            for i, cell in enumerate(rows[self.options.label]):
                table[i, [ids[name] for name in self._of(cell)]] = 1.0
            targets = {"target": table.tolist()}
        return Encoded(sequences, list(range(len(sequences))), extra=extra, targets=targets)

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        tensor = torch.tensor(targets.get("target", []), dtype=torch.float32)
        return sequences, Targets(tensor.numel(), {"target": tensor})

    def attach(self, backbone: Backbone) -> None:
        self.attach_outputs(backbone, len(self.labels))

    def loss(self, features: Features, targets: Targets) -> Tensor:
        """`targets` holds `target`, `[batch, labels]`, 1 for a label that the row has."""
        return functional.binary_cross_entropy_with_logits(
            self.outputs(features), targets.tensors["target"], reduction="sum"
        )

    def predict(self, features: Features, targets: Targets) -> list[Any]:
        """Return the probability of each label."""
        return self.outputs(features).sigmoid().tolist()

    def answer(self, predictions: Sequence[Any], row: Mapping[str, Any]) -> dict[str, Any]:
        (probabilities,) = predictions
        by_label = dict(zip(self.labels, probabilities, strict=True))
        given = [label for label, probability in by_label.items() if probability >= self.options.threshold]
        return {"value": given, "probabilities": by_label}

    def metrics(self, predictions: Sequence[Any], references: Sequence[Any], loss: float) -> dict[str, float]:
        """`accuracy` counts rows with all labels right; `hamming_loss` is the share of wrong decisions."""
        from sklearn.metrics import accuracy_score, hamming_loss, precision_recall_fscore_support  # slow to import

        truth = np.asarray(references, dtype=int)
        said = (np.asarray(predictions) >= self.options.threshold).astype(int)
        scores = {
            "loss": loss,
            "accuracy": float(accuracy_score(truth, said)),
            "hamming_loss": float(hamming_loss(truth, said)),
        }
        for average in ("micro", "macro"):
            values = precision_recall_fscore_support(truth, said, average=average, zero_division=0.0)
            scores |= {
                f"{n}_{average}": float(v) for n, v in zip(("precision", "recall", "f1"), values[:3], strict=True)
            }
        return scores

    def references(self, targets: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        return targets["target"]

    def config(self) -> dict[str, Any]:
        return {**config_of(self.labels), "problem_type": "multi_label_classification"}


def build(options: Options, *, task: str) -> Multilabel:
    return Multilabel(task, options)
