"""`multilabel`: several classes, or none, for a text or a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from hft_core.backbone import Backbone, Features
from hft_core.data import as_label, as_list
from hft_core.head import Column, Decision, Draw, Encoded, RowError, Targets
from hft_core.results import LabelScores
from hft_plugins.heads.parts import class_weights, decisions, focal_loss, label_lists, label_scores, windows
from hft_plugins.heads.parts.class_weights import LABEL_SMOOTHING_FIELD, ClassWeights
from hft_plugins.heads.parts.decisions import LabelMetric
from hft_plugins.heads.parts.focal_loss import GAMMA_FIELD
from hft_plugins.heads.parts.label_ids import LabelNames, config_of, first_rows, ids_of, in_order, refuse_alike, unknown
from hft_plugins.heads.parts.label_oddities import oddities, slips
from hft_plugins.heads.parts.sequence_head import ScoringHead, WindowedOptions


class Options(WindowedOptions):
    """Options of `multilabel`: columns and threshold."""

    separator: str = Field(default=",", description="separator of the labels in a text cell (a list is read as it is)")
    threshold: float = Field(default=0.5, gt=0, lt=1, description="least probability of a predicted label")
    tune_threshold: LabelMetric | None = Field(
        default=None,
        description="replace `threshold` by one for each label, which are best for this metric on the dev rows",
    )
    labels: LabelNames | None = Field(
        default=None,
        description="label names in the order of their ids; those of the training rows, sorted, when left out",
    )
    class_weights: ClassWeights | None = Field(
        default=None,
        description="factors on the loss of rows that have a label (`pos_weight`): balanced (rows without / rows with "
        "it), or by label",
    )
    label_smoothing: float = LABEL_SMOOTHING_FIELD
    loss: Literal["bce", "focal"] = Field(
        default="bce",
        description="bce: binary cross-entropy; focal: down-weights labels that are already predicted with confidence",
    )
    gamma: float | None = GAMMA_FIELD

    @model_validator(mode="after")
    def _loss_fits(self) -> Options:
        focal_loss.refuse_odd(self.loss, self.gamma, self.label_smoothing)
        return self


class Multilabel(ScoringHead):
    """Predict labels by binary cross-entropy, or its focal loss, on one logit per label; each label of each row is a
    target of the loss."""

    main_metric = "f1_micro"

    def __init__(self, task: str, options: Options) -> None:
        super().__init__(task, options.window)
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
        """Facts: the `labels` and, for rows of 0 and 1 for each of them, `multi_hot`."""
        name = self.options.label
        cells = [self._values(cell) for cell in rows[name]]
        self.facts = self._labels(cells)
        if self.options.class_weights is not None:
            self.facts["class_weights"] = self._weights(self.options.class_weights, rows[name])

    def _labels(self, cells: Sequence[list[str]]) -> dict[str, Any]:
        name, given = self.options.label, self.options.labels
        if width := label_lists.multi_hot_width(cells, given or ()):
            if len(given or ()) != width:
                raise RowError(0, label_lists.unnamed(name, width, given))
            return {"labels": list(given or ()), "multi_hot": True}
        found = first_rows(cells)
        refuse_alike(found, name, named=given or ())
        if given is None:
            label_lists.refuse_undivided(cells, name, self.options.separator)
        labels = list(given or in_order(found))
        if len(labels) < 2:
            some = f"one label only ('{labels[0]}')" if labels else "no label in any row"
            raise ValueError(f"column '{name}' has {some}; expected two labels or more")
        if given is None:
            counts = Counter(label for values in cells for label in values)
            self.warnings += oddities(labels, name) + [f"column '{name}': {what}" for what in slips(counts)]
            self.warnings += label_lists.left_undivided(labels, name, self.options.separator)
        return {"labels": labels}

    def _weights(self, wanted: ClassWeights, cells: Sequence[Any]) -> list[float]:
        """Return the weight of each label's positive targets."""
        if isinstance(wanted, dict):
            return class_weights.by_label(wanted, self.labels)
        counts = Counter(label for cell in cells for label in self._of(cell))
        return class_weights.balanced_positives([counts[label] for label in self.labels], len(cells))

    def classes_of(self, row: Mapping[str, Any]) -> Collection[str]:
        """Return the labels of a row; of 0 and 1 for each label, those that are 1, by their place."""
        if self.facts:
            return set(self._of(row[self.options.label]))
        values = self._values(row[self.options.label])
        if not label_lists.is_multi_hot(values, self.options.labels or ()):
            return set(values)
        return {f"place {i}" for i, value in enumerate(values) if value in label_lists.ONES}

    def check(self, row: Mapping[str, Any]) -> str:
        name, values = self.options.label, self._values(row[self.options.label])
        if self.facts.get("multi_hot"):
            return label_lists.problem_of_multi_hot(values, name, len(self.labels))
        odd = next((value for value in values if value not in self.labels), None)
        if odd is not None:
            return unknown(f"column '{name}' holds", odd, self.labels)
        twice = next((value for value in values if values.count(value) > 1), None)
        return "" if twice is None else f"column '{name}' holds the label '{twice}' twice, expected each label once"

    def _values(self, cell: Any) -> list[str]:
        """Return what is in a cell."""
        return [as_label(value) for value in as_list(cell, self.label_column)]

    def _of(self, cell: Any) -> list[str]:
        """Return the label names in a cell."""
        values = self._values(cell)
        if not self.facts.get("multi_hot"):
            return values
        return [label for label, value in zip(self.labels, values, strict=True) if value in label_lists.ONES]

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        encoded = self.encode_texts([rows[name] for name in self.options.texts], tokenizer, max_length)
        ids = ids_of(self.labels)
        if self.options.label in rows:
            cells = rows[self.options.label]
            table = np.zeros((len(cells), len(ids)))
            for i, cell in enumerate(cells):
                table[i, [ids[name] for name in self._of(cell)]] = 1.0
            encoded.targets["target"] = table[encoded.rows].tolist()
        return encoded

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        tensor, position = windows.of_rows(targets, torch.float32)
        return sequences, Targets(tensor.numel(), {"target": tensor, **position})

    def attach(self, backbone: Backbone) -> None:
        self.attach_outputs(backbone, len(self.labels), self.options.pooling)

    def loss(self, features: Features, targets: Targets) -> Tensor:
        """`targets` holds `target`, `[batch, labels]`, 1 for a label that the row has."""
        return self._loss(features, targets, "sum")

    def losses(self, features: Features, targets: Targets) -> Tensor | None:
        return self._loss(features, targets, "none").sum(dim=1)

    def _loss(self, features: Features, targets: Targets, reduction: str) -> Tensor:
        logits = self.of_rows(self.raw_outputs(features), targets)
        target, smoothing = targets.tensors["target"], self.options.label_smoothing
        positive = class_weights.on_device_of(logits, self.facts.get("class_weights"))
        if self.options.loss == "focal":
            bce = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
            losses = focal_loss.focused(bce, self.options.gamma)
            if positive is not None:
                losses = losses * torch.where(target > 0, positive, 1.0)
            return losses.sum() if reduction == "sum" else losses
        if smoothing:
            target = target * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, target, reduction=reduction, pos_weight=positive)

    def outputs(self, features: Features) -> dict[str, Tensor]:
        return {"logits": self.raw_outputs(features)}

    def decode(self, outputs: Mapping[str, Tensor], targets: Targets) -> list[Any]:
        """Return the probability of each label."""
        return self.of_rows(outputs["logits"], targets).sigmoid().tolist()

    @property
    def fits_decision(self) -> bool:
        return self.options.tune_threshold is not None

    def fit_decision(self, predictions: Sequence[Any], references: Sequence[Any]) -> Sequence[Any]:
        """Facts: the `thresholds`, one a label."""
        if self.options.tune_threshold is not None:
            fitted = decisions.fit_thresholds(predictions, references, self.options.tune_threshold)
            self.facts["thresholds"] = fitted
        return predictions

    def decision(self) -> Decision:
        return Decision(thresholds=tuple(self._thresholds))

    @property
    def _thresholds(self) -> list[float]:
        """The least probability of each label that is given."""
        thresholds: list[float] = self.facts.get("thresholds") or [self.options.threshold] * len(self.labels)
        return thresholds

    def answer(self, predictions: Sequence[Any], row: Mapping[str, Any]) -> dict[str, Any]:
        (probabilities,) = predictions
        by_label = dict(zip(self.labels, probabilities, strict=True))
        known = zip(self.labels, probabilities, self._thresholds, strict=True)
        given = [label for label, probability, threshold in known if probability >= threshold]
        return {"value": given, "probabilities": by_label}

    def baseline(self, references: Sequence[Any]) -> list[float]:
        """Return 1 for the most frequent labels, as many as give the highest micro-averaged F1."""
        counts = np.asarray(references, dtype=float).sum(axis=0)
        order = np.argsort(-counts, kind="stable")
        right, given = np.cumsum(counts[order]), len(references) * np.arange(1, len(counts) + 1)
        chosen = order[: int(np.argmax(right / (given + counts.sum()))) + 1]
        return [float(label in chosen) for label in range(len(counts))]

    def metrics(self, predictions: Sequence[Any], references: Sequence[Any], loss: float) -> dict[str, float]:
        """`accuracy` counts rows with all labels right; `hamming_loss` is the share of wrong decisions. Macro averages
        are over the labels that occur in the rows or in the predictions."""
        from sklearn.metrics import accuracy_score, hamming_loss, precision_recall_fscore_support  # slow to import

        truth, said = np.asarray(references, dtype=int), self._given(predictions)
        scores = {
            "loss": loss,
            "accuracy": float(accuracy_score(truth, said)),
            "hamming_loss": float(hamming_loss(truth, said)),
        }
        occur = np.flatnonzero(truth.any(axis=0) | said.any(axis=0))
        for average in ("micro", "macro"):
            options = {"average": average, "labels": occur if len(occur) else None, "zero_division": 0.0}
            values = precision_recall_fscore_support(truth, said, **options)
            scores |= {
                f"{n}_{average}": float(v) for n, v in zip(("precision", "recall", "f1"), values[:3], strict=True)
            }
        return scores

    def by_label(self, predictions: Sequence[Any], references: Sequence[Any]) -> LabelScores:
        return label_scores.label_scores(self.labels, references, self._given(predictions))

    def _given(self, predictions: Sequence[Any]) -> np.ndarray:
        """Return 0 or 1 `[rows, labels]`."""
        given: np.ndarray = (np.asarray(predictions) >= np.asarray(self._thresholds)).astype(int)
        return given

    def references(self, targets: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        return targets["target"]

    def config(self) -> dict[str, Any]:
        return {**config_of(self.labels), "problem_type": "multi_label_classification"}


def build(options: Options, *, task: str) -> Multilabel:
    return Multilabel(task, options)
